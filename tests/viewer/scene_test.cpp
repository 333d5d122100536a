#include "kvscope/scene/scene.h"

#include <gtest/gtest.h>

#include <random>

#include "kvscope/core/error.h"
#include "kvscope/scene/commands.h"
#include "kvscope/scene/fate_map.h"
#include "kvscope/scene/head_map.h"
#include "kvscope/scene/inspector.h"
#include "kvscope/scene/palette.h"
#include "kvscope/scene/token_strip.h"
#include "synthetic_scene.h"

namespace kvscope {
namespace {

Colour pixel(const Pixels& pixels, int x, int y) {
  const std::size_t at = (static_cast<std::size_t>(y) * static_cast<std::size_t>(pixels.width) +
                          static_cast<std::size_t>(x)) *
                         4;
  return {pixels.rgba[at], pixels.rgba[at + 1], pixels.rgba[at + 2]};
}

TEST(State, LinkAndBackIsTheIdentity) {
  std::mt19937 draw(7);
  const std::string layouts[] = {"explore", "compare", "merge", "weights"};
  const std::string queries[] = {"", "7421", "/a%20b/", "\xE4\xB8\xAD \"{}[]"};
  for (int round = 0; round < 200; ++round) {
    State state;
    state.layout = layouts[draw() % 4];
    state.a = static_cast<int>(draw() % 9);
    state.b = static_cast<int>(draw() % 9);
    state.layer = static_cast<int>(draw() % 99);
    state.token = static_cast<int>(draw() % 100000);
    state.first = static_cast<int>(draw() % 1000);
    state.last = static_cast<int>(draw() % 100000);
    state.aggregate = draw() % 2 == 0 ? "mean" : "any";
    state.map = draw() % 2 == 0 ? "fate" : "score";
    state.strip = draw() % 2 == 0 ? "fate" : "cost";
    state.query = queries[draw() % 4];
    state.seen = static_cast<int>(draw() % 100) - 1;
    state.before = state.seen >= 0 && draw() % 2 == 0;
    for (unsigned head = 0; head < draw() % 4; ++head) {
      state.kv_heads.push_back(static_cast<int>(head));
    }
    EXPECT_EQ(from_link(to_link(state)), state);
  }
}

TEST(State, KeepsKeysOfOtherVersionsAndRefusesNonsense) {
  const State state = from_link(R"({"token": 5, "zebra": [1, "x y"]})");
  EXPECT_EQ(state.token, 5);
  EXPECT_EQ(from_link(to_link(state)).extra, state.extra);
  EXPECT_NE(state.extra.find("zebra"), std::string::npos);
  for (const char* bad : {"", "nonsense", "[1]", R"({"layout": "sideways"})",
                          R"({"token": "five"})", R"({"before": 1})", R"({"query": 3})",
                          R"({"map": "roads"})", R"({"kv_heads": 3})", "kvscope:%7B"}) {
    EXPECT_THROW(from_link(bad), Error) << bad;
  }
}

TEST(State, ClampedPointsAtWhatExists) {
  State wild;
  wild.a = 99;
  wild.layer = -4;
  wild.token = 1 << 29;
  wild.kv_heads = {0, 7, -1};
  wild.first = 500;
  const State tame = clamped(wild, {2, 4, 2, 400});
  EXPECT_EQ(tame.a, 1);
  EXPECT_EQ(tame.layer, 0);
  EXPECT_EQ(tame.token, 399);
  EXPECT_EQ(tame.kv_heads, (std::vector<int>{0}));
  EXPECT_EQ(tame.last, 400);
  EXPECT_LT(tame.first, tame.last);
}

TEST(FateMap, OneLostTokenShowsAtEveryZoomUnderAnyLoss) {
  test::SceneOptions options;
  options.tokens = 5000;
  options.needle = 3210;
  const Scene scene = test::synthetic_scene(options);
  const ColumnPyramid pyramid(scene.layers(), scene.token_count(),
                              kept_share(scene, scene.decisions[0], {}));
  for (const int width : {7, 64, 300, 1000, 5000}) {
    const Pixels pixels = rasterise_share(pyramid, {0, 5000, width, 4, true, true});
    const int x = 3210 * width / 5000;
    EXPECT_EQ(pixel(pixels, x, 2), share_colour(0, true)) << width;
    EXPECT_EQ(pixel(pixels, x, 1), share_colour(1, true)) << width;
  }
}

TEST(FateMap, PyramidEqualsBruteForce) {
  std::mt19937 draw(3);
  const int columns = 77;
  std::vector<float> values(2 * columns);
  for (float& value : values) {
    value = static_cast<float>(draw() % 1000) / 1000;
  }
  const ColumnPyramid pyramid(2, columns, values);
  for (int first = 0; first < columns; ++first) {
    for (int last = first + 1; last <= columns; ++last) {
      const auto begin = values.begin() + columns;
      EXPECT_EQ(pyramid.minimum(1, first, last), *std::min_element(begin + first, begin + last));
      EXPECT_EQ(pyramid.maximum(1, first, last), *std::max_element(begin + first, begin + last));
      double sum = 0;
      for (int column = first; column < last; ++column) {
        sum += static_cast<double>(values[static_cast<std::size_t>(columns + column)]);
      }
      EXPECT_NEAR(pyramid.mean(1, first, last), sum / (last - first), 1e-6);
    }
  }
}

TEST(FateMap, DifferenceHasTheSignOfWhoKeepsMore) {
  const Scene scene = test::synthetic_scene();
  const auto difference = share_difference(kept_share(scene, scene.decisions[0], {}),
                                           kept_share(scene, scene.decisions[1], {}));
  EXPECT_EQ(difference[0], 0.0f);  // both keep token 0
  EXPECT_EQ(difference[1], 1.0f);  // only the first keeps token 1
}

TEST(TokenStrip, LettersAndSharesOfTheChosenHeads) {
  const Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  state.layer = 2;
  const auto strip = token_strip(scene, state, 120, 126);
  ASSERT_EQ(strip.size(), 6u);
  EXPECT_EQ(strip[3].token, 123);
  EXPECT_EQ(strip[3].letter, 'E');
  EXPECT_EQ(strip[3].share, 0.0);
  EXPECT_EQ(strip[2].letter, 'K');
}

TEST(TokenStrip, ShownTokensAreSafeText) {
  EXPECT_EQ(shown_token(" a\n\t"),
            "\xC2\xB7"
            "a\xE2\x86\xB5\xE2\x86\x92");
  EXPECT_EQ(shown_token("\xE2\x82"), "<E2><82>");
  EXPECT_EQ(shown_token(std::string("\0\x1b", 2)), "<00><1B>");
  EXPECT_EQ(shown_token("\xE4\xB8\xAD"), "\xE4\xB8\xAD");
}

TEST(Inspector, RankCutAndMarginEqualBruteForce) {
  const Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  state.token = 10;
  state.kv_heads = {1};
  const Inspection inspection = inspect_token(scene, state);
  ASSERT_EQ(inspection.rows.size(), 2u);
  const WhyRow& row = inspection.rows[1];  // "halves": scores are -token
  EXPECT_TRUE(row.has_score);
  EXPECT_EQ(row.score, -10.0);
  EXPECT_EQ(row.rank, 11);
  EXPECT_EQ(row.candidates, 400);
  EXPECT_EQ(row.granted, 200);
  EXPECT_DOUBLE_EQ(row.margin, (-10.0 + 200.0) / 200.0);
  EXPECT_EQ(inspection.kept_heads, 8);
}

TEST(Inspector, WhyTextSaysRankCutAndReason) {
  const Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  state.token = 11;
  state.kv_heads = {1};
  const std::string text = why_text(inspect_token(scene, state).rows[1]);
  for (const char* part : {"Evicted: score", "after 400 tokens", "rank 12 of 400", "granted 200",
                           "above the last kept score, -200"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
}

TEST(HeadMap, EveryValueIsOneAStateMayName) {
  const Scene scene = test::synthetic_scene();
  for (const HeadValue& value : head_values()) {
    const State state = from_link(std::string(R"({"head_value": ")") + value.id + R"("})");
    const HeadMap map = head_map(scene, clamped(state, scene.limits()));
    EXPECT_TRUE(!map.missing.empty() || map.values.size() == 8u) << value.id;
  }
}

TEST(HeadMap, RankCorrelationOfEqualAndOfReversedScores) {
  Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  state.head_value = "rank";
  EXPECT_DOUBLE_EQ(head_map(scene, state).at(1, 1), 1.0);
  for (float& score : scene.decisions[1].decision.layers[1].scores) {
    score = -score;
  }
  EXPECT_DOUBLE_EQ(head_map(scene, state).at(1, 1), -1.0);
  EXPECT_DOUBLE_EQ(head_map(scene, state).at(0, 1), 1.0);
}

TEST(HeadMap, CountsSlots) {
  const Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  const HeadMap map = head_map(scene, state);
  EXPECT_EQ(map.at(0, 0), 400);
  EXPECT_EQ(map.at(2, 1), 399);
  state.head_value = "error";
  EXPECT_FALSE(head_map(scene, state).missing.empty());
}

TEST(Commands, CostliestLossFindsTheNeedleAndSwapSwaps) {
  const Scene scene = test::synthetic_scene();
  const State state = run_command("costliest_loss", scene, clamped({}, scene.limits()));
  EXPECT_EQ(state.token, 123);
  EXPECT_EQ(state.layer, 2);
  const State swapped = run_command("swap", scene, state);
  EXPECT_EQ(swapped.a, state.b);
  EXPECT_EQ(run_command("swap", scene, swapped), state);
  EXPECT_THROW(run_command("swp", scene, state), Error);
}

TEST(Commands, IdsAndKeysAreUnique) {
  for (std::size_t a = 0; a < commands().size(); ++a) {
    for (std::size_t b = a + 1; b < commands().size(); ++b) {
      EXPECT_NE(commands()[a].id, commands()[b].id);
      EXPECT_TRUE(commands()[a].key.empty() || commands()[a].key != commands()[b].key)
          << commands()[a].key;
    }
  }
}

TEST(Scene, RefusesDecisionsOfAnotherRun) {
  const Scene scene = test::synthetic_scene();
  Decision stranger = scene.decisions[0].decision;
  stranger.capture_hash = "another";
  EXPECT_THROW(make_scene(scene.capture, scene.tokens, {stranger}, std::nullopt), Error);
}

}  // namespace
}  // namespace kvscope
