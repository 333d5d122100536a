#include <gtest/gtest.h>

#include "kvscope/core/error.h"
#include "kvscope/scene/agreement.h"
#include "made_decision.h"

namespace kvscope {
namespace {

TEST(Agreement, TwoHeadsSixTokensByHand) {
  const Decision a = made_decision({{"KKKEEE", "KEKEKE"}});
  const Decision b = made_decision({{"KKEEEK", "EKEKEK"}});
  const Agreement result = agreement(a, b);
  EXPECT_EQ(result.at(0, 0).both, 2);
  EXPECT_EQ(result.at(0, 0).only_a, 1);
  EXPECT_EQ(result.at(0, 0).only_b, 1);
  EXPECT_EQ(result.at(0, 0).neither, 2);
  EXPECT_DOUBLE_EQ(result.at(0, 0).jaccard(), 0.5);
  EXPECT_DOUBLE_EQ(result.at(0, 1).jaccard(), 0.0);
  EXPECT_DOUBLE_EQ(result.total.jaccard(), 2.0 / 10);
  EXPECT_EQ(result.worst_kv_head, 1);
  EXPECT_TRUE(result.comparable());
  EXPECT_EQ(result.remark(), "equal memory");
}

TEST(Agreement, SaysWhenBudgetsDiffer) {
  const Decision a = made_decision({{std::string(50, 'K') + std::string(50, 'E')}});
  const Decision near = made_decision({{std::string(48, 'K') + std::string(52, 'E')}});
  const Decision far = made_decision({{std::string(30, 'K') + std::string(70, 'E')}});
  EXPECT_EQ(agreement(a, near).budgets, BudgetMatch::near);
  EXPECT_EQ(agreement(a, near).remark(), "memory differs by 4.0 %");
  EXPECT_FALSE(agreement(a, far).comparable());
  EXPECT_EQ(agreement(a, far).remark(), "not comparable: memory differs by 40.0 %");
}

TEST(Agreement, ComparesTheMemoryOfPackedValues) {
  Decision whole = made_decision({{std::string(50, 'K') + std::string(50, 'E')}});
  whole.head_dim = 64;
  Decision packed = whole;
  packed.form.value_bits = 4;
  // A row of 64 numbers in 4 bits and a scale: 36 bytes beside 256 of the keys; 292 of 512.
  EXPECT_EQ(agreement(whole, packed).remark(), "not comparable: memory differs by 43.0 %");
  EXPECT_EQ(agreement(packed, packed).remark(), "equal memory");
}

TEST(Agreement, EmptySetsAgree) {
  const Decision nothing = made_decision({{"EEEE"}});
  EXPECT_DOUBLE_EQ(agreement(nothing, nothing).total.jaccard(), 1.0);
}

TEST(Agreement, RefusesDifferentRuns) {
  const Decision a = made_decision({{"KKEE"}});
  const Decision longer = made_decision({{"KKEEE"}});
  Decision other = a;
  other.capture_hash = "ffffffffffffffff";
  EXPECT_THROW(agreement(a, longer), Error);
  EXPECT_THROW(agreement(a, other), Error);
}

}  // namespace
}  // namespace kvscope
