#include "pre_tokenizer.h"

#include <gtest/gtest.h>

#include "model_test_support.h"

namespace kvscope {
namespace {

class PreTokenizerGolden : public testing::TestWithParam<const char*> {};

/// tests/golden/tokenizers_goldens.py: the published regular expressions through `tokenizers`.
TEST_P(PreTokenizerGolden, SplitsAsTheReference) {
  const PreTokenizer pre_tokenizer(GetParam(), "test");
  const auto strings = test::awkward_strings();
  const auto rows = test::golden_rows(std::string(GetParam()) + ".splits.txt");
  for (std::size_t index = 0; index < strings.size(); ++index) {
    std::vector<std::int32_t> lengths;
    for (const std::string_view word : pre_tokenizer.split(strings[index])) {
      lengths.push_back(static_cast<std::int32_t>(word.size()));
    }
    EXPECT_EQ(lengths, rows[index]) << nlohmann::json(strings[index]).dump();
  }
}

INSTANTIATE_TEST_SUITE_P(Names, PreTokenizerGolden,
                         testing::Values("gpt2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken",
                                         "falcon"));

TEST(PreTokenizer, PiecesJoinToTheTextWhateverTheBytes) {
  const PreTokenizer pre_tokenizer("llama-bpe", "test");
  const std::string invalid(
      "a\xFF\xFE b\xC3 \xF0\x9F\x98 \xED\xA0\x80 12\x80"
      "3",
      19);
  std::string joined;
  for (const std::string_view word : pre_tokenizer.split(invalid)) {
    EXPECT_FALSE(word.empty());
    joined += word;
  }
  EXPECT_EQ(joined, invalid);
}

TEST(PreTokenizer, LongRunsTakeLinearTime) {
  const PreTokenizer pre_tokenizer("llama-bpe", "test");
  EXPECT_EQ(pre_tokenizer.split(std::string(1 << 20, 'a')).size(), 1u);
  EXPECT_EQ(pre_tokenizer.split(std::string(1 << 20, ' ')).size(), 1u);
  EXPECT_EQ(pre_tokenizer.split(std::string(1 << 20, '\n')).size(), 1u);
}

TEST(PreTokenizer, UnknownNamesAreRefusedWithTheKnownOnes) {
  const Error error = test::error_of([] { PreTokenizer("deepseek-v9", "file.gguf"); });
  EXPECT_EQ(error.code(), ErrorCode::unsupported);
  EXPECT_THAT(error.message(), testing::HasSubstr("'deepseek-v9'"));
  EXPECT_THAT(error.message(), testing::HasSubstr("llama-bpe"));
  EXPECT_EQ(error.where(), "file.gguf");
}

}  // namespace
}  // namespace kvscope
