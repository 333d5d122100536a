"""Writes chat_templates.json: the templates in chat_templates/, rendered by transformers on a few conversations.

usage: chat_templates.py

Made with transformers 5.2.0 and jinja2 3.1.6. The templates are those that the models carry; constructs.jinja is ours and
uses what the others do and more. Compared exactly. Where the template raises an exception, `raises` has its text. The
clock stands at 26 July 2024, 12:00 UTC, the date that templates write where they know none.
"""
import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
# Of tokens in the templates' families: the text of BOS and EOS, empty where the tokenizer has none.
TOKENS = {
    "llama2": ("<s>", "</s>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "llama3.1": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3.2": ("<|begin_of_text|>", "<|eot_id|>"), "mistral": ("<s>", "</s>"), "mixtral": ("<s>", "</s>"),
    "mistral_nemo": ("<s>", "</s>"), "mistral_small3.2": ("<s>", "</s>"), "gemma2": ("<bos>", "<eos>"), "gemma3": ("<bos>", "<eos>"),
    "qwen2": ("", "<|im_end|>"), "qwen2.5": ("", "<|im_end|>"), "qwen3": ("", "<|im_end|>"), "phi3": ("<s>", "<|endoftext|>"),
    "phi3.5": ("<s>", "<|endoftext|>"), "phi4_mini": ("<|endoftext|>", "<|endoftext|>"), "smollm2": ("<|im_start|>", "<|im_end|>"),
    "smollm3": ("", "<|im_end|>"), "falcon": (">>", "<|endoftext|>"), "constructs": ("<s>", "</s>"),
}
QUESTION = dict(role="user", content="  First line.\n\nWhat follows? \n")
SYSTEM = dict(role="system", content="Be kind, Mr. O'Neil.\n")
CONVERSATIONS = {
    "question": [QUESTION],
    "system": [SYSTEM, QUESTION],
    "turns": [dict(role="user", content="Sum 2 + 2"), dict(role="assistant", content="<think>\nadd\n</think>\n\nIt is 4. "),
              dict(role="user", content="caf\u00e9 \"\u65e5\u672c\" \U0001f600?"), dict(role="assistant", content="Yes"), QUESTION],
    "system_turns": [SYSTEM, dict(role="user", content="Sum"), dict(role="assistant", content=" 4\n"), dict(role="user", content="And 5?")],
    "no_think": [dict(role="system", content="Answer /no_think briefly."), dict(role="user", content="Why /no_think?")],
    "twice_user": [QUESTION, QUESTION],
    "odd": [dict(role="user", content="{{ bos_token }} {% if %} <s> \\n 'x' </s>")],
}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 12, 0, 0, tzinfo=tz)


def rendered(source, messages, bos, eos, add_generation_prompt):
    tokens = {name: text for name, text in (("bos_token", bos), ("eos_token", eos)) if text}
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            [messages], chat_template=source, add_generation_prompt=add_generation_prompt, **tokens)
        return dict(rendered=texts[0])
    except jinja2.exceptions.TemplateError as error:
        return dict(raises=str(error))


def main():
    chat_template_utils.datetime = Clock
    cases = []
    for name, (bos, eos) in TOKENS.items():
        source = (HERE / "chat_templates" / f"{name}.jinja").read_text()
        for conversation, messages in CONVERSATIONS.items():
            for answer in (True, False) if conversation in ("question", "turns") else (True,):
                result = rendered(source, messages, bos, eos, answer)
                cases.append(dict(template=name, conversation=conversation, bos=bos, eos=eos, add_generation_prompt=answer, **result))
    text = json.dumps(dict(transformers=transformers.__version__, jinja2=jinja2.__version__, conversations=CONVERSATIONS, cases=cases),
                      indent=1, ensure_ascii=False)
    (HERE / "chat_templates.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
