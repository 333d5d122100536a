"""Texts of tokens, as bytes: pieces of a byte-level tokenizer may be parts of a character."""

import functools

import torch


@functools.lru_cache(maxsize=1)
def _byte_of_letter():
    """Byte-level BPE writes each byte as a letter: those that print as themselves, others from U+0100 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printing}
    others = [byte for byte in range(256) if byte not in printing]
    letters.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return letters


def _is_byte_level(tokenizer):
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in str(getattr(backend, "decoder", None))


def pieces(tokenizer, ids):
    """Bytes of each token, which together are the text. ids: list of int; tokenizer None gives empty pieces."""
    if tokenizer is None:
        return [b""] * len(ids)
    special = set(getattr(tokenizer, "added_tokens_decoder", {}))
    letters = _byte_of_letter() if _is_byte_level(tokenizer) else None
    found = []
    for number, token in zip(ids, tokenizer.convert_ids_to_tokens(list(ids))):
        token = token or ""
        if number in special:
            found.append(token.encode())
        elif letters is not None:
            found.append(bytes(letters[letter] for letter in token) if all(letter in letters for letter in token)
                         else token.encode())
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            found.append(bytes([int(token[3:5], 16)]))
        else:
            found.append(token.replace("\u2581", " ").encode())
    return found


def packed(texts):
    """Bytes one behind the other (uint8) and where each text ends (int64), as the operators take them."""
    joined = b"".join(texts)
    ends, end = [], 0
    for text in texts:
        end += len(text)
        ends.append(end)
    data = torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)
    return data, torch.tensor(ends, dtype=torch.int64)
