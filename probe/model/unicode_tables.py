"""Writes unicode_compositions.cpp: what normalisation form C needs, from Python's unicodedata.

usage: unicode_tables.py

Made with Python 3.11; the forms of assigned characters never change.
"""
import pathlib
import unicodedata

WIDTH = 90


def literal(digits):
    return "\n".join(f'    "{digits[at:at + WIDTH]}"' for at in range(0, len(digits), WIDTH))


def main():
    compositions = []
    singletons = []
    classes = []
    for point in range(0x110000):
        if 0xAC00 <= point <= 0xD7A3 or 0xD800 <= point <= 0xDFFF:
            continue  # Hangul syllables follow from arithmetic; surrogates are no characters
        character = chr(point)
        combining = unicodedata.combining(character)
        if combining:
            if classes and classes[-1][1] == point - 1 and classes[-1][2] == combining:
                classes[-1][1] = point
            else:
                classes.append([point, point, combining])
        decomposition = unicodedata.decomposition(character)
        if not decomposition or decomposition.startswith("<"):
            continue
        parts = [int(part, 16) for part in decomposition.split()]
        if len(parts) == 1:
            singletons.append((point, parts[0]))
        else:
            # a pair that composes again, or one that is excluded from composition
            excluded = unicodedata.normalize("NFC", character) != character
            compositions.append((point, parts[0], parts[1], excluded))
    folder = pathlib.Path(__file__).parent
    (folder / "unicode_compositions.cpp").write_text(
        '#include "unicode_tables.h"\n\nnamespace kvscope {\n\n'
        "// Made by unicode_tables.py from the Unicode character database, version "
        f"{unicodedata.unidata_version}.\n\n"
        f"const char* const composition_digits =\n"
        f"{literal(''.join('%05x%05x%05x%d' % row for row in compositions))};\n\n"
        f"const char* const combining_digits =\n"
        f"{literal(''.join('%05x%05x%02x' % tuple(row) for row in classes))};\n\n"
        "}  // namespace kvscope\n")
    (folder / "unicode_singletons.cpp").write_text(
        '#include "unicode_tables.h"\n\nnamespace kvscope {\n\n'
        "// Made by unicode_tables.py from the Unicode character database, version "
        f"{unicodedata.unidata_version}.\n\n"
        f"const char* const singleton_digits =\n"
        f"{literal(''.join('%05x%05x' % row for row in singletons))};\n\n"
        "}  // namespace kvscope\n")


if __name__ == "__main__":
    main()
