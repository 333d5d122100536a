#include "kvscope/core/tokens.h"

#include <gtest/gtest.h>

#include "kvscope/core/error.h"
#include "kvscope/core/shape.h"
#include "kvscope/core/slots.h"

namespace kvscope {
namespace {

TokenTable four_tokens() {
  TokenTable table;
  table.append(5, 0, Segment::context, "the code");
  table.append(6, 1, Segment::context, " is 74");
  table.append(7, 2, Segment::context, "21");
  table.append(8, 3, Segment::question, ".");
  return table;
}

TEST(TokenTable, TextOfTokens) {
  const TokenTable table = four_tokens();
  EXPECT_EQ(table.text(1), " is 74");
  EXPECT_EQ(table.text(1, 3), " is 7421");
  EXPECT_EQ(table.text(3, 99), ".");
  EXPECT_EQ(table.text(4), "");
}

TEST(TokenTable, FindGivesTheTokensThatOverlap) {
  const TokenTable table = four_tokens();
  const auto found = table.find("7421");
  EXPECT_EQ(found.first, 1);
  EXPECT_EQ(found.last, 3);
  const auto whole = table.find("the code");
  EXPECT_EQ(whole.first, 0);
  EXPECT_EQ(whole.last, 1);
  const auto absent = table.find("7422");
  EXPECT_EQ(absent.first, absent.last);
  EXPECT_EQ(table.find("").last, 0);
}

TEST(SlotTable, FullIsUniformAndUnmerged) {
  SlotTable table = SlotTable::full(2, 3);
  EXPECT_TRUE(table.uniform());
  EXPECT_TRUE(table.unmerged());
  EXPECT_EQ(table.token, (std::vector<std::int32_t>{0, 1, 2, 0, 1, 2}));
  table.multiplicity[4] = 2;
  EXPECT_FALSE(table.unmerged());
  table.length[0] = 2;
  EXPECT_FALSE(table.uniform());
}

TEST(Error, SaysWhatWhereAndFix) {
  const Error error(ErrorCode::missing_data, "no values", "/layers/000/values",
                    "use --profile qkv");
  EXPECT_STREQ(error.what(), "no values\nwhere: /layers/000/values\nfix:   use --profile qkv");
  EXPECT_EQ(exit_status(error), 1);
}

TEST(Error, NearestNameIsNearOrEmpty) {
  const std::string names[] = {"snapkv", "knorm", "laprox"};
  EXPECT_EQ(nearest_name("snapvk", names, 3), "snapkv");
  EXPECT_EQ(nearest_name("zzzzzzzz", names, 3), "");
}

TEST(ModelShape, CheckNamesTheContradiction) {
  ModelShape shape;
  shape.layers = 2;
  shape.query_heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 8;
  shape.hidden_dim = 32;
  shape.vocabulary = 100;
  shape.attention_scale = 0.35;
  EXPECT_NO_THROW(check_shape(shape, "test"));
  EXPECT_EQ(shape.kv_head_of(3), 1);
  shape.kv_heads = 3;
  EXPECT_THROW(check_shape(shape, "test"), Error);
}

}  // namespace
}  // namespace kvscope
