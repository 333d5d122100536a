"""Writes tokenizers/: the awkward strings, and what the reference tokenizers make of them.

usage: tokenizers_goldens.py MODELS_FOLDER (holds smollm2.gguf and gemma3-270m.gguf)

Made with tokenizers 0.22.2, sentencepiece 0.2.3, gguf 0.19.0. Ids and splits are compared exactly.

strings.txt        one JSON string a line
NAME.splits.txt    for each string the lengths of its words in bytes of UTF-8, by the regular expressions that
                   the families publish in tokenizer.json
smollm2.ids.txt    ids by byte-level BPE over the vocabulary and merges of smollm2.gguf, digits apart; special
                   tokens are read where they are written out
gemma3.ids.txt     ids by sentencepiece over the vocabulary and scores of gemma3-270m.gguf, without BOS
"""
import json
import pathlib
import struct
import sys

import gguf
from awkward_strings import awkward_strings
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MARKS = r"\p{Lm}\p{Lo}\p{M}"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = (rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}{MARKS}]*[\p{{Ll}}{MARKS}]+{ENDING}|"
         rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}{MARKS}]+[\p{{Ll}}{MARKS}]*{ENDING}|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}{MARKS}]*[\p{{Ll}}{MARKS}]+|"
          rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}{MARKS}]+[\p{{Ll}}{MARKS}]*|"
          r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


SPLITS = {
    "gpt2": pre_tokenizers.Sequence([split(GPT2)]),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split(GPT2)]),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
    "gpt-4o": split(GPT4O),
    "tekken": split(TEKKEN),
    "falcon": pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), split(GPT2),
                                       pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]),
}


def lengths(pre_tokenizer, text):
    return [len(word.encode()) for word, _ in pre_tokenizer.pre_tokenize_str(text)] if text else []


def values(reader, key):
    field = reader.fields[key]
    if len(field.types) == 1:
        return field.parts[field.data[0]][0]
    if field.types[1] == gguf.GGUFValueType.STRING:
        return [bytes(field.parts[at]).decode() for at in field.data]
    return [field.parts[at][0] for at in field.data]


def smollm2(path):
    reader = gguf.GGUFReader(path)
    tokens = values(reader, "tokenizer.ggml.tokens")
    types = values(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in values(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, kind in zip(tokens, types) if kind == 3])
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    """One field of a protobuf message: an integer, a float, or bytes."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece_model(tokens, scores, types):
    """A sentencepiece ModelProto: BPE with byte fallback, no normalisation but of spaces."""
    pieces = b"".join(field(1, field(1, token.encode()) + field(2, float(score)) + field(3, int(kind)))
                      for token, score, kind in zip(tokens, scores, types))
    trainer = field(3, 2) + field(4, len(tokens)) + field(35, 1) + field(40, types.index(2))
    normalizer = field(1, b"identity") + field(3, 0) + field(4, 0) + field(5, 1)
    return pieces + field(2, trainer) + field(3, normalizer)


def gemma3(path):
    reader = gguf.GGUFReader(path)
    types = [int(kind) for kind in values(reader, "tokenizer.ggml.token_type")]
    types[int(values(reader, "tokenizer.ggml.unknown_token_id"))] = 2  # the converter calls it a control token
    # and writes user-defined tokens with their spaces plain
    tokens = [token.replace(" ", "\u2581") if kind == 4 else token
              for token, kind in zip(values(reader, "tokenizer.ggml.tokens"), types)]
    model = sentencepiece_model(tokens, values(reader, "tokenizer.ggml.scores"), types)
    return SentencePieceProcessor(model_proto=model).encode


def write(path, rows):
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))


def main():
    models_folder = pathlib.Path(sys.argv[1])
    folder = pathlib.Path(__file__).parent / "tokenizers"
    strings = awkward_strings()
    (folder / "strings.txt").write_text("".join(json.dumps(text) + "\n" for text in strings))
    for name, pre_tokenizer in SPLITS.items():
        write(folder / f"{name}.splits.txt", [lengths(pre_tokenizer, text) for text in strings])
    for name, encode in [("smollm2", smollm2(models_folder / "smollm2.gguf")),
                         ("gemma3", gemma3(models_folder / "gemma3-270m.gguf"))]:
        write(folder / f"{name}.ids.txt", [encode(text) for text in strings])


if __name__ == "__main__":
    main()
