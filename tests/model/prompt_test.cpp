#include "kvscope/model/prompt.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "byte_bpe.h"
#include "kvscope/model/model_file.h"
#include "model_test_support.h"
#include "tiny_model.h"

namespace kvscope {
namespace {

class Prompt : public testing::Test {
 protected:
  std::shared_ptr<const Tokenizer> tokenizer_ =
      ModelFile::open(test::source_path("data/tiny.gguf"))->tokenizer();
};

std::string text_of(const TokenTable& table, Segment segment) {
  std::string text;
  for (int token = 0; token < table.size(); ++token) {
    if (table.segment[static_cast<std::size_t>(token)] == segment) {
      text += table.text(token);
    }
  }
  return text;
}

TEST_F(Prompt, PlainTextIsContext) {
  const TokenTable table = build_prompt(*tokenizer_, {"the cat <|im_end|>", "", false});
  EXPECT_EQ(table.text(0, table.size()), "the cat <|im_end|>");
  EXPECT_EQ(table.prompt_tokens, table.size());
  EXPECT_EQ(table.context_tokens, table.size());
  for (const std::int32_t id : table.id) {
    EXPECT_FALSE(tokenizer_->is_special(id)) << "text of the user is never a special token";
  }
  for (int token = 0; token < table.size(); ++token) {
    EXPECT_EQ(table.position[static_cast<std::size_t>(token)], token);
  }
}

TEST_F(Prompt, ChatMlSurroundsContextAndQuestion) {
  const TokenTable table = build_prompt(*tokenizer_, {"the sea", "Why?", true});
  EXPECT_EQ(table.text(0, table.size()),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nthe sea\n\nWhy?<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(text_of(table, Segment::context), "the sea");
  EXPECT_EQ(text_of(table, Segment::question), "\n\nWhy?");
  EXPECT_EQ(table.id[0], 1);
  EXPECT_EQ(table.segment[static_cast<std::size_t>(table.context_tokens)], Segment::question);
  EXPECT_EQ(table.segment[static_cast<std::size_t>(table.context_tokens) - 1], Segment::context);
}

/// The template in the file is the golden's, and the prompt's tokens spell what transformers
/// renders.
TEST(RealPrompt, SmolLm2AgreesWithTransformers) {
  const std::string path = test::source_path("models/smollm2.gguf");
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "needs a real model: ./run fetch smollm2";
  }
  const auto tokenizer = ModelFile::open(path)->tokenizer();
  EXPECT_EQ(tokenizer->chat_template(),
            test::read_file(test::source_path("tests/golden/chat_templates/smollm2.jinja")));
  const auto golden =
      nlohmann::json::parse(test::read_file(test::source_path("tests/golden/chat_templates.json")));
  const std::string message =
      golden.at("conversations").at("question").at(0).at("content").get<std::string>();
  int compared = 0;
  for (const auto& example : golden.at("cases")) {
    if (example.at("template") == "smollm2" && example.at("conversation") == "question" &&
        example.at("add_generation_prompt") == true) {
      const TokenTable table = build_prompt(*tokenizer, {message, "", true});
      EXPECT_EQ(table.text(0, table.size()), example.at("rendered").get<std::string>());
      EXPECT_EQ(text_of(table, Segment::context), message);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 1);
}

TEST_F(Prompt, ContextIsTokenizedApartFromTheQuestion) {
  const TokenTable alone = build_prompt(*tokenizer_, {"in th", "", false});
  const TokenTable both = build_prompt(*tokenizer_, {"in th", "e end", false});
  ASSERT_EQ(both.context_tokens, alone.size());
  EXPECT_TRUE(std::equal(alone.id.begin(), alone.id.end(), both.id.begin()));
}

TEST_F(Prompt, EmptyPromptIsRefused) {
  const Error error = test::error_of([&] { build_prompt(*tokenizer_, {"", "Why?", true}); });
  EXPECT_EQ(error.code(), ErrorCode::usage);
}

TEST_F(Prompt, OneTokenIsLegal) {
  EXPECT_EQ(build_prompt(*tokenizer_, {"a", "", false}).size(), 1);
}

TEST_F(Prompt, TokenIdsAreCheckedWordByWord) {
  const test::TemporaryFolder folder;
  const TokenTable table = read_token_ids(folder.write("good", " 3\n4\t299 \r\n"), *tokenizer_);
  EXPECT_EQ(table.id, (std::vector<std::int32_t>{3, 4, 299}));
  EXPECT_EQ(table.context_tokens, 3);
  for (const char* bad : {"3 300", "-1", "3,4", "4x", "99999999999999999999", "0x10", "\xFF"}) {
    const Error error =
        test::error_of([&] { read_token_ids(folder.write("bad", bad), *tokenizer_); });
    EXPECT_EQ(error.code(), ErrorCode::usage) << bad;
    EXPECT_THAT(error.where(), testing::HasSubstr("byte")) << bad;
  }
  EXPECT_EQ(
      test::error_of([&] { read_token_ids(folder.write("none", "  \n"), *tokenizer_); }).code(),
      ErrorCode::usage);
  EXPECT_EQ(test::error_of([&] { read_token_ids(folder / "absent", *tokenizer_); }).code(),
            ErrorCode::io);
}

}  // namespace
}  // namespace kvscope
