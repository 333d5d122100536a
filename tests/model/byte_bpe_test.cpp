#include "byte_bpe.h"

#include <gtest/gtest.h>

#include <chrono>

#include "kvscope/model/model_file.h"
#include "model_test_support.h"

namespace kvscope {
namespace {

ByteBpeTables tiny_tables() {
  ByteBpeTables tables;
  tables.pre_tokenizer = "gpt2";
  tables.where = "test";
  tables.tokens = {"<|end|>", "a", "b", "c", "Ġ", "ab", "abc", "Ġab", "bc", "[user]"};
  tables.types = {3, 1, 1, 1, 1, 1, 1, 1, 1, 4};
  tables.merges = {"b c", "a b", "ab c", "Ġ ab"};
  tables.bos = 0;
  return tables;
}

using Ids = std::vector<std::int32_t>;

TEST(ByteBpe, LowestRankMergesFirst) {
  const auto tokenizer = make_byte_bpe(tiny_tables());
  EXPECT_EQ(tokenizer->encode("abc"), (Ids{1, 8}));  // "b c" comes before "a b"
  EXPECT_EQ(tokenizer->encode("ab"), (Ids{5}));
  EXPECT_EQ(tokenizer->encode("ab ab"), (Ids{5, 7}));
  EXPECT_EQ(tokenizer->encode("aab"), (Ids{1, 5}));
  EXPECT_EQ(tokenizer->decode({5, 7}), "ab ab");
}

TEST(ByteBpe, ControlTokensOnlyWhenAsked) {
  auto tables = tiny_tables();
  const auto tokenizer = make_byte_bpe(tables);
  EXPECT_EQ(tokenizer->encode("a<|end|>b", true), (Ids{1, 0, 2}));
  EXPECT_EQ(tokenizer->encode("a[user]b", false), (Ids{1, 9, 2}));  // user-defined ones always
  EXPECT_TRUE(tokenizer->is_special(0));
  EXPECT_FALSE(tokenizer->is_special(9));
  EXPECT_EQ(tokenizer->piece(0), "<|end|>");
  EXPECT_EQ(tokenizer->piece(-1), "");
  EXPECT_EQ(tokenizer->piece(10), "");
}

TEST(ByteBpe, BosWhereTheFileAsksAndTheCallerAllows) {
  auto tables = tiny_tables();
  EXPECT_EQ(make_byte_bpe(tables)->encode("a"), (Ids{1}));
  tables.add_bos = true;
  EXPECT_EQ(make_byte_bpe(tables)->encode("a"), (Ids{0, 1}));
  EXPECT_EQ(make_byte_bpe(tables)->encode(""), (Ids{0}));
  EXPECT_EQ(make_byte_bpe(tables)->encode("a", false, false), (Ids{1}));
  tables.bos = -1;
  EXPECT_EQ(make_byte_bpe(tables)->encode("a"), (Ids{1}));
}

TEST(ByteBpe, WholeWordsSkipTheMergesInLlama3) {
  auto tables = tiny_tables();
  tables.pre_tokenizer = "llama-bpe";
  EXPECT_EQ(make_byte_bpe(tables)->encode("abc"), (Ids{6}));
}

TEST(ByteBpe, RefusesMergesOfUnknownTokens) {
  auto tables = tiny_tables();
  tables.merges.push_back("a z");
  EXPECT_EQ(test::error_of([&] { make_byte_bpe(tables); }).code(), ErrorCode::corrupt_file);
  tables.merges.back() = "c a";
  EXPECT_EQ(test::error_of([&] { make_byte_bpe(tables); }).code(), ErrorCode::corrupt_file);
  tables.merges.back() = "abc";
  EXPECT_EQ(test::error_of([&] { make_byte_bpe(tables); }).code(), ErrorCode::corrupt_file);
  tables.merges.back() = "";
  EXPECT_EQ(test::error_of([&] { make_byte_bpe(tables); }).code(), ErrorCode::corrupt_file);
}

TEST(ByteBpe, TokensOfBrokenUtf8AreRead) {
  auto tables = tiny_tables();
  tables.tokens.push_back("\xF0\x9F");  // promises four bytes, holds two
  tables.tokens.push_back("\xC4");
  tables.types.insert(tables.types.end(), {1, 1});
  const auto tokenizer = make_byte_bpe(tables);
  EXPECT_EQ(tokenizer->piece(10), "\xF0\x9F");
  EXPECT_EQ(tokenizer->piece(11), "\xC4");
}

TEST(ByteBpe, LongWordsAreNotQuadratic) {
  const auto tokenizer = make_byte_bpe(tiny_tables());
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(tokenizer->encode(std::string(1 << 20, 'a')).size(), std::size_t{1} << 20);
  std::string alternating;
  for (int pair = 0; pair < 1 << 18; ++pair) {
    alternating += "abc";
  }
  EXPECT_EQ(tokenizer->encode(alternating).size(), std::size_t{1} << 19);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

/// SmolLM2's own vocabulary against `tokenizers` on the awkward strings.
TEST(ByteBpe, SmolLm2AgreesWithTheReference) {
  const std::string path = test::source_path("models/smollm2.gguf");
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "needs a real model: ./run fetch smollm2";
  }
  const auto tokenizer = ModelFile::open(path)->tokenizer();
  const auto strings = test::awkward_strings();
  const auto rows = test::golden_rows("smollm2.ids.txt");
  for (std::size_t index = 0; index < strings.size(); ++index) {
    const auto ids = tokenizer->encode(strings[index], true, false);
    EXPECT_EQ(ids, rows[index]) << nlohmann::json(strings[index]).dump();
    EXPECT_EQ(tokenizer->decode(ids), strings[index]);
  }
  EXPECT_EQ(tokenizer->encode("Hi"), tokenizer->encode("Hi", false, false)) << "add_bos is false";
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_TRUE(tokenizer->is_end_of_generation(2));
}

}  // namespace
}  // namespace kvscope
