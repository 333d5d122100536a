"""Writes NAME_parity.json: what transformers computes on the dequantised weights of a GGUF file.

usage: real_model_parity.py MODEL.gguf PASSAGE.txt OUT.json
       models/smollm2.gguf data/demo/passage.txt tests/golden/smollm2_parity.json
       models/gemma3-270m.gguf data/demo/passage.txt tests/golden/gemma3_parity.json

Float32, eager attention, on the first tokens of the passage as ids (for Gemma behind its BOS, and more than
its sliding window of 512; transformers builds that tokenizer wrongly from GGUF, but any ids will do). Stored:
at every position the most likely token and its lead over the second; at some positions the log-sum-exp of
all logits (which every logit enters) and the logits of 12 tokens; then 32 greedy tokens. torch 2.11.0,
transformers 5.2.0. The tests allow 2e-3 absolute on logits; float32 SDPA and eager differ by up to 1.1e-4.
"""

import json
import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

GREEDY = 32
# architecture: (tokens, ids in front, distance of the stored positions, tokens whose logits are stored)
PLANS = {
    "llama": (500, [], 1, [0, 1, 28, 281, 657, 1904, 4099, 9001, 17017, 30011, 42043, 49151]),
    "gemma3_text": (640, [2], 16, [0, 1, 2, 107, 506, 1904, 9001, 30011, 70001, 120011, 200003, 262143]),
}


def main():
    model_path, passage_path, out_path = sys.argv[1:]
    where = {"gguf_file": os.path.basename(model_path)}
    folder = os.path.dirname(os.path.abspath(model_path))
    tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **where).eval()
    tokens, front, distance, columns = PLANS[model.config.model_type]
    with open(passage_path, encoding="utf-8") as file:
        ids = (front + tokenizer(file.read(), add_special_tokens=False)["input_ids"])[:tokens]
    assert len(ids) == tokens
    rows = list(range(distance - 1, tokens, distance))
    with torch.no_grad():
        run = model(torch.tensor([ids]), use_cache=True)
        logits = run.logits[0]
        cache, token, greedy = run.past_key_values, int(logits[-1].argmax()), []
        while len(greedy) < GREEDY:
            greedy.append(token)
            step = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            token = int(step.logits[0, -1].argmax())
    best = logits.topk(2, dim=-1)
    golden = {
        "about": f"transformers on {model_path}, float32 eager; made by real_model_parity.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "ids": ids,
        "top1": best.indices[:, 0].tolist(),
        "lead": [round(x, 4) for x in (best.values[:, 0] - best.values[:, 1]).tolist()],
        "rows": rows,
        "log_sum_exp": [round(x, 5) for x in logits[rows].double().logsumexp(-1).tolist()],
        "columns": columns,
        "logits": [[round(x, 4) for x in row] for row in logits[rows][:, columns].tolist()],
        "greedy": greedy,
    }
    with open(out_path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(
            f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
            for key, value in golden.items()) + "\n}\n")


if __name__ == "__main__":
    main()
