"""Writes tokenizers/files/: small tokenizers trained on the awkward strings, and ids for all 2,000.

usage: tokenizer_files.py

Made with tokenizers 0.22.2 and sentencepiece 0.2.3. NAME.json is a tokenizer.json of the shape that the family
publishes, NAME.model a SentencePiece model; NAME.ids.txt has the ids of each string (special tokens read where the
kind reads them, BOS where its post-processor or model adds it is left out). Compared exactly.
"""
import io
import json
import pathlib

from awkward_strings import awkward_strings
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers_goldens import LLAMA3, QWEN2, write

FOLDER = pathlib.Path(__file__).parent / "tokenizers" / "files"
SPECIAL = [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(splits, normalizer=None, ignore_merges=False, bos=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tokenizer, trainer


def byte_fallback(normalizer=None, pre_tokenizer=None):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    # characters seen twice; the rest fall back to bytes
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL[:3] + BYTES, limit_alphabet=120, show_progress=False)
    return tokenizer, trainer


def as_published(tokenizer):
    """Byte tokens are ordinary entries of the vocabulary, a trainer makes special tokens of them; and after unigram
    training the ids of added tokens are not those of the vocabulary."""
    data = json.loads(tokenizer.to_str())
    if data["model"]["type"] == "Unigram":
        ids = {text: index for index, (text, _) in enumerate(data["model"]["vocab"])}
        for token in data["added_tokens"]:
            token["id"] = ids[token["content"]]
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(data))


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=500, unk_token="<unk>", special_tokens=SPECIAL[:3], show_progress=False)
    return tokenizer, trainer


MARK = "\u2581"
LLAMA2_NORMALIZER = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
KINDS = {
    "llama3": byte_level([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                          pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)], ignore_merges=True, bos=True),
    "qwen2": byte_level([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)], normalizers.NFC()),
    "smollm": byte_level([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama2": byte_fallback(LLAMA2_NORMALIZER),
    "gemma": byte_fallback(normalizers.Replace(" ", MARK), pre_tokenizers.Split(" ", "merged_with_previous")),
    "mistral": byte_fallback(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "unigram": unigram(),
}


def sentencepiece(strings, kind, **options):
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(text for text in strings if "\x00" not in text and text.strip()), model_writer=model,
        model_type=kind, vocab_size=600, hard_vocab_limit=False, normalization_rule_name="identity", character_coverage=0.98,
        user_defined_symbols=["<|im_start|>"] + ([MARK * 2] if kind == "bpe" else []), minloglevel=2, num_threads=1, **options)
    return model.getvalue()


def main():
    strings = awkward_strings()
    for name, (tokenizer, trainer) in KINDS.items():
        tokenizer.train_from_iterator(strings, trainer)
        tokenizer = as_published(tokenizer)
        tokenizer.save(str(FOLDER / f"{name}.json"), pretty=False)
        write(FOLDER / f"{name}.ids.txt", [tokenizer.encode(text, add_special_tokens=False).ids for text in strings])
    for name, kind, options in [
            ("spm_bpe", "bpe", dict(byte_fallback=True, add_dummy_prefix=True, remove_extra_whitespaces=False)),
            ("spm_unigram", "unigram", dict(byte_fallback=False, add_dummy_prefix=True, remove_extra_whitespaces=True)),
    ]:
        model = sentencepiece(strings, kind, **options)
        (FOLDER / f"{name}.model").write_bytes(model)
        encode = SentencePieceProcessor(model_proto=model).encode
        write(FOLDER / f"{name}.ids.txt", [encode(text) for text in strings])


if __name__ == "__main__":
    main()
