#include "kvscope/capture/selection.h"

#include <gtest/gtest.h>

#include "kvscope/core/error.h"

namespace kvscope::test {
namespace {

using Numbers = std::vector<int>;

TEST(Selection, FormsAndTheirNumbers) {
  const auto chosen = [](const char* text) { return select_numbers(text, 10, "--layers"); };
  EXPECT_EQ(chosen("all"), (Numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(chosen("7,0-3,2"), (Numbers{0, 1, 2, 3, 7}));
  EXPECT_EQ(chosen("every:4"), (Numbers{0, 4, 8}));
  EXPECT_EQ(chosen("every:1"), chosen("all"));
  EXPECT_EQ(chosen("every:2000000000"), Numbers{0});
  EXPECT_EQ(chosen("last:3"), (Numbers{7, 8, 9}));
  EXPECT_EQ(chosen("last:11"), chosen("all"));
}

TEST(Selection, BadTextNamesItsFlag) {
  for (const char* text : {"", "x", "1-", "-1", "3-2", "10", "0-10", "1,,2", "every:", "every:0",
                           "every:-2", "last:x", "1 ", "1-2-3", "99999999999", "Every:2"}) {
    try {
      select_numbers(text, 10, "--steps");
      ADD_FAILURE() << "'" << text << "' was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::usage) << text;
      EXPECT_EQ(error.where(), "--steps") << text;
      EXPECT_FALSE(error.fix().empty()) << text;
    }
  }
}

TEST(Selection, StepsBeginWithThePrompt) {
  const auto all = select_steps("all", 4);
  EXPECT_TRUE(all.prompt);
  EXPECT_EQ(all.decode, (Numbers{1, 2, 3, 4}));
  EXPECT_TRUE(select_steps("prefill", 4).prompt);
  EXPECT_TRUE(select_steps("prefill", 4).decode.empty());
  EXPECT_FALSE(select_steps("decode", 4).prompt);
  EXPECT_EQ(select_steps("decode", 4).decode, all.decode);
  EXPECT_FALSE(select_steps("none", 4).prompt);
  EXPECT_EQ(select_steps("every:3", 9).decode, (Numbers{3, 6, 9}));
  EXPECT_TRUE(select_steps("every:3", 9).prompt);
  EXPECT_FALSE(select_steps("2-3", 9).prompt);
  EXPECT_EQ(select_steps("last:2", 9).decode, (Numbers{8, 9}));
  EXPECT_THROW(select_steps("5", 4), Error);
}

TEST(Selection, SegmentsAreRangesOfTokens) {
  TokenTable prompt;
  for (const Segment segment : {Segment::chat_template, Segment::context, Segment::context,
                                Segment::question, Segment::chat_template}) {
    prompt.append(1, prompt.size(), segment, "x");
  }
  prompt.prompt_tokens = 5;
  EXPECT_EQ(with_segments("context", prompt, "--hook-tokens"), "1-2");
  EXPECT_EQ(with_segments("template", prompt, "--hook-tokens"), "0-0,4-4");
  EXPECT_EQ(with_segments("every:2", prompt, "--hook-tokens"), "every:2");
  prompt.segment[3] = Segment::context;
  EXPECT_THROW(with_segments("question", prompt, "--hook-tokens"), Error);
}

}  // namespace
}  // namespace kvscope::test
