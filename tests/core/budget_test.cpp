#include "kvscope/core/budget.h"

#include <gtest/gtest.h>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr BudgetScope scope_of(int tokens) {
  return {tokens, 2, 3, 512};
}

TEST(Budget, FractionRoundsDownButNeverToNothing) {
  EXPECT_EQ(Budget::parse("0.2").slots_per_head(scope_of(770)), 154);
  EXPECT_EQ(Budget::parse("0.1").slots_per_head(scope_of(10)), 1);
  EXPECT_EQ(Budget::parse("0.9").slots_per_head(scope_of(1)), 1);
  EXPECT_EQ(Budget::parse("1.0").slots_per_head(scope_of(1000)), 1000);
  EXPECT_EQ(Budget::parse("0.29").slots_per_head(scope_of(100)),
            29);  // 28.999999999999996 in double
}

TEST(Budget, ReferenceRoundingRepeatsTheOraclesDoubleNoise) {
  const auto kept = [](int tokens, const char* keep) {
    return Budget::parse(keep, Budget::Rounding::reference).slots_per_head(scope_of(tokens));
  };
  EXPECT_EQ(kept(10, "0.1"), 0);
  EXPECT_EQ(kept(10, "0.2"), 1);
  EXPECT_EQ(kept(100, "0.1"), 9);
  EXPECT_EQ(kept(1000, "0.1"), 99);
  EXPECT_EQ(kept(10, "0.3"), 3);
  EXPECT_EQ(kept(128, "0.7"), 89);
  EXPECT_EQ(kept(770, "0.2"), 153);
}

TEST(Budget, SlotsAreClippedToTheTokens) {
  EXPECT_EQ(Budget::parse("1024").slots_per_head(scope_of(770)), 770);
  EXPECT_EQ(Budget::parse("64").slots_per_head(scope_of(770)), 64);
  EXPECT_EQ(Budget::parse("1").total_slots(scope_of(770)), 6);
}

TEST(Budget, BytesAreSharedByLayersAndHeads) {
  EXPECT_EQ(Budget::parse("30KiB").slots_per_head(scope_of(770)), 10);
  EXPECT_EQ(Budget::parse("30KiB").text(), "30KiB");
  EXPECT_THROW(Budget::parse("3000B").slots_per_head(scope_of(770)), Error);
}

TEST(Budget, TextParsesBack) {
  for (const char* text : {"0.2", "1.0", "1024", "64MiB", "0.125", "7B"}) {
    EXPECT_EQ(Budget::parse(text).text(), text);
  }
}

TEST(Budget, RefusesNonsenseAsWrongUsage) {
  for (const char* text : {"0", "0.0", "1.5", "-3", "-0.2", "", "abc", "1024x", "nan", "MiB",
                           "0MiB", "1e99", "99999999999"}) {
    try {
      Budget::parse(text);
      ADD_FAILURE() << text << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(exit_status(error), 2) << text;
      EXPECT_FALSE(error.fix().empty());
    }
  }
}

}  // namespace
}  // namespace kvscope
