"""2,000 strings that tokenizers trip over: code, numbers, scripts without spaces, emoji, white space.

The same on every machine: the choice follows from a linear congruential generator, not from `random`.
"""

FRAGMENTS = [
    # words and contractions
    "the", "The", " the", "hello", "Hello", " world", "don't", "I'll", "we've", "they're", "it's", "I'd", "I'm", "CAN'T",
    "y'all", "'s", "'S", "'", "’s", "naïve", "café", "cafe\u0301", "Ångström", "A\u030angstro\u0308m", "ﬁne", "straße",
    "İstanbul", "ıI", "Ωmega", "\u2126", "e\u0301\u0323", "q\u0307\u0323", "fooBar", "HTTPServer", "snake_case", "XMLHttpRequest",
    # numbers
    "0", "7", "42", " 42", "123", "1234", "12345678", "3.14159", "1,000,000", "1e-5", "0x1F", "½", "²", "Ⅷ", "٣", "४२", "１２",
    "²³", "1st", "2024-11-25", "12:30", "100%",
    # code
    "def f(x):\n", "    return x\n", "\treturn x;\n", "if (a && b) {\n", "}\n\n", "x += 1", "a->b", "std::vector<int>", "/* c */",
    "// c\r\n", "#include <a.h>", "<div class=\"x\">", "</div>", "&amp;", "\\n", "\\u00e9", "{{x}}", "$x", "@a", "a/b/c.txt",
    "https://example.org/?q=1&r=%20", "user@example.org", "SELECT * FROM t;", "!=", "==", "...", "…", "---", "___", "~~",
    # white space
    " ", "  ", "   ", "     ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n", "\n ", "\n  ", " \t ", "\u00a0", "\u3000",
    "\u2009", "\u200b", "\u2028", "\u0085", "\v", "\f", " \n \n ",
    # scripts
    "你好", "世界", "日本語", "こんにちは", "カタカナ", "한국어", "안녕", "Привет", " мир", "Ελλάδα", "שלום", "مرحبا", "नमस्ते", "ไทย",
    "ქართული", "አማርኛ", "தமிழ்", "\u1112\u1161\u11ab", "が", "か\u3099", "繁體", "。", "，", "「」", "？！",
    # emoji and the far planes
    "😀", "👍🏽", "👨‍👩‍👧‍👦", "🇩🇪", "❤️", "☺", "🏳️‍🌈", "𝒜", "𠮷", "𝟘", "\U000e0067", "\ufe0f", "\ufeff", "\ufffd", "\ufffc",
    # punctuation and symbols
    ".", ",", "!", "?", ";", ":", "-", "–", "—", "\"", "“quoted”", "«", "»", "(", ")", "[1]", "€", "£5", "±", "×", "→", "∑", "≤", "°C",
    "©", "™", "•", "\x00", "\x01", "\x7f", "\x1b[0m",
    # what looks like special tokens
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<bos>", "<eos>", "<unk>", "<0x41>", "<start_of_turn>", "▁", "▁▁", "Ġ", "Ċ",
    "<|im_start", "im_end|>", "[INST]", "<pad>",
]

WHOLE = [
    "", " ", "a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "        x", "x        ", "\n\n\n\n\n\n", "\t\t\t\tx",
    "The quick brown fox jumps over the lazy dog.", "1234567890" * 5, "=" * 60, "-" * 37, " " * 50, "\n" * 17, "ab" * 40, "哈" * 25, "😀" * 9,
    "for (int i = 0; i < 10; ++i) {\n\tprintf(\"%d\\n\", i);\n}\n", "    if x:\n        y = 1\n\n\n    return y\n",
    "{\"a\": [1, 2.5e-3, null, true], \"b\": \"\\u00fc\"}", "Line one\r\nLine two\r\n\r\nLine four", "mixed\ttabs  and   spaces    here",
    "Ünïcödé ñ Ж ß 漢字 かな 한글 emoji 🙂 end", "supercalifragilisticexpialidocious antidisestablishmentarianism", "I'm you're he's we'll they'd I've",
    "WE'RE SHOUTING, AREN'T WE?", "x²+y²=z²; ½+¼=¾", "The temperature was −40 °C (−40 °F).", "3.14, 2.718, 1.414; 0xDEADBEEF, 0b1010",
    "a\u0301\u0302\u0303\u0304", "\u0301alone", "ﷺ ﬃ ŉ ǆ", "\u1e9b\u0323", "\uac00\u11a8", "𝕳𝖊𝖑𝖑𝖔", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|>", "text<|im_end|>text", " <|im_end|> ", "<bos>x<eos>", "<start_of_turn>user\nHi<end_of_turn>\n",
]


def awkward_strings(count=2000):
    state = 20240611
    strings = list(WHOLE)
    seen = set(strings)

    def draw(bound):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (state >> 33) % bound

    for fragment in FRAGMENTS:
        if fragment not in seen:
            seen.add(fragment)
            strings.append(fragment)
    while len(strings) < count:
        text = "".join(FRAGMENTS[draw(len(FRAGMENTS))] for _ in range(2 + draw(3)))
        if text not in seen:
            seen.add(text)
            strings.append(text)
    return strings
