// A run seen over time: moments, cache use, merges.
#include <gtest/gtest.h>

#include "kvscope/scene/commands.h"
#include "kvscope/scene/inspector.h"
#include "kvscope/scene/merges.h"
#include "kvscope/scene/moment.h"
#include "made_decision.h"
#include "synthetic_scene.h"

namespace kvscope {
namespace {

/// One head, 8 tokens: a prompt of 4, cut to 2 after it, and one more token evicted at step 3.
Decision stepwise() {
  Decision decision = made_decision({{"KKEEKEKK"}});
  decision.events = {{0, 4, 0}, {3, 7, 0}};
  LayerDecision& layer = decision.layers[0];
  layer.removed_at = {alive, alive, 0, 0, alive, 1, alive, alive};
  return decision;
}

Scene scene_of(const Decision& decision, int prompt) {
  CaptureIndex capture;
  capture.capture_hash = decision.capture_hash;
  capture.shape.layers = static_cast<int>(decision.layers.size());
  capture.shape.kv_heads = decision.kv_heads;
  capture.shape.query_heads = decision.query_heads;
  capture.shape.head_dim = decision.head_dim;
  capture.tokens = decision.tokens;
  TokenTable tokens;
  for (int token = 0; token < decision.tokens; ++token) {
    tokens.append(token, token, Segment::context, "t");
  }
  tokens.prompt_tokens = tokens.context_tokens = prompt;
  for (int row = 0; row < capture.shape.layers; ++row) {
    capture.layers.push_back(row);
  }
  return make_scene(capture, tokens, {decision}, std::nullopt);
}

TEST(Moments, BeforeAndAfterEachCutAndEachStepBetween) {
  const std::vector<RunMoment> all = moments(stepwise(), 4);
  const std::vector<RunMoment> expected = {{4, true, 0, 0, true},   {4, false, 0, 1, true},
                                           {5, false, 1, 1, false}, {6, false, 2, 1, false},
                                           {7, true, 3, 1, true},   {7, false, 3, 2, true},
                                           {8, false, 4, 2, false}};
  EXPECT_EQ(all, expected);
}

TEST(Moments, SlotsRiseWithTokensAndFallAtCuts) {
  std::vector<std::int64_t> held;
  std::int64_t evicted = 0;
  for (const MomentCounts& counts : moment_counts(stepwise(), 4)) {
    held.push_back(counts.held);
    evicted += counts.evicted;
  }
  EXPECT_EQ(held, (std::vector<std::int64_t>{4, 2, 3, 4, 5, 4, 5}));
  EXPECT_EQ(evicted, 3);
}

TEST(Moments, LettersAtAMoment) {
  const Scene scene = scene_of(stepwise(), 4);
  const SceneDecision& entry = scene.decisions[0];
  const auto at = [&](int seen, bool before) {
    State state;
    state.seen = seen;
    state.before = before;
    return letters_at(entry, 0, state);
  };
  EXPECT_EQ(at(4, true), "KKKKNNNN");
  EXPECT_EQ(at(4, false), "KKEENNNN");
  EXPECT_EQ(at(7, true), "KKEEKKKN");
  EXPECT_EQ(at(7, false), "KKEEKEKN");
  EXPECT_EQ(at(-1, false), "KKEEKEKK");
}

TEST(Moments, CommandsWalkThroughThemAndBack) {
  const Scene scene = scene_of(stepwise(), 4);
  State state = clamped({}, scene.limits());
  state = run_command("first_moment", scene, state);
  EXPECT_EQ(state.seen, 4);
  EXPECT_TRUE(state.before);
  state = run_command("next_cut", scene, state);
  EXPECT_EQ(state.seen, 4);
  EXPECT_FALSE(state.before);
  state = run_command("next_cut", scene, state);
  EXPECT_EQ(state.seen, 7);
  state = run_command("step_on", scene, state);
  EXPECT_EQ(state.seen, -1) << "the end";
  state = run_command("step_back", scene, state);
  EXPECT_EQ(state.seen, 7);
  EXPECT_FALSE(state.before);
}

TEST(CacheUse, MeanAndPeakFromTheFirstCutOn) {
  const CacheUse use = cache_use(stepwise());
  EXPECT_EQ(use.full_slots, 8);
  EXPECT_EQ(use.first_slots, 4) << "before the first cut";
  EXPECT_EQ(use.peak_slots, 5);
  EXPECT_EQ(use.last_slots, 5);
  // after the cut at 4: 2 slots, then 3, 4, at 7: 5 before its cut (no time passes) and 4, then 5.
  EXPECT_DOUBLE_EQ(use.mean_slots, (2 + 3 + 4 + 4 + 5) / 5.0);
  const CacheUse full = cache_use(made_decision({{"KKKK"}}));
  EXPECT_EQ(full.peak_slots, 4);
  EXPECT_DOUBLE_EQ(full.mean_slots, 4);
}

/// What comes after a cut is whole until the next one.
TEST(CacheUse, OnlyWhatACutLeftIsPacked) {
  const SlotBytes slot{10, 3};
  const CacheUse use = cache_use(stepwise(), slot);
  EXPECT_EQ(use.last_whole, 1);
  EXPECT_EQ(use.last_bytes, 4 * 3 + 10);
  EXPECT_EQ(use.peak_bytes, 2 * 3 + 3 * 10) << "before the second cut";
  EXPECT_DOUBLE_EQ(use.mean_bytes, (6 + 16 + 26 + 12 + 22) / 5.0);
  Decision uncut = made_decision({{"KKKK"}});
  EXPECT_EQ(cache_use(uncut, slot).last_bytes, 12) << "a cut that takes none packs all";
  uncut.events.clear();
  const CacheUse full = cache_use(uncut, slot);
  EXPECT_EQ(full.last_whole, 4);
  EXPECT_EQ(full.peak_bytes, 40);
  CacheForm packed;
  packed.value_bits = 4;
  const SlotBytes sizes = slot_bytes(packed, 64, 2);
  EXPECT_EQ(sizes.whole, 256);
  EXPECT_EQ(sizes.cut, 128 + 36);
  EXPECT_EQ(bytes_held(5, 2, sizes), 2 * 256 + 3 * 164);
}

/// One head, 6 tokens: 1 and 2 fold into 0 at the first cut, 4 into 0 at the second, 3 is dropped.
Decision merging() {
  Decision decision = made_decision({{"KMMDMK"}});
  decision.events = {{0, 4, 0}, {2, 6, 0}};
  LayerDecision& layer = decision.layers[0];
  layer.removed_at = {alive, 0, 0, 0, 1, alive};
  layer.edges = {{0, 0, 0, 0, 0.5f, 0.5f, 1, -1},
                 {0, 1, 0, 0, 0.25f, 0.25f, 1, -1},
                 {0, 2, 0, 0, 0.25f, 0.25f, 1, -1},
                 {0, 4, 0, 1, 0.4f, 0.5f, 1, -1}};
  return decision;
}

TEST(Merges, SourcesWeightsAndMultiplicitiesAtBothCuts) {
  const Scene scene = scene_of(merging(), 4);
  State state = clamped({}, scene.limits());
  const MergeGraph end = merge_graph(scene, state);
  ASSERT_EQ(end.slots.size(), 1u);
  EXPECT_EQ(end.slots[0].sources.size(), 4u);
  EXPECT_DOUBLE_EQ(end.slots[0].before, 1);
  EXPECT_DOUBLE_EQ(end.slots[0].after, 4);
  EXPECT_EQ(end.merged, 3);
  EXPECT_EQ(end.dropped, (std::vector<int>{3})) << "dropped, not merged";
  EXPECT_DOUBLE_EQ(end.multiplicity + end.lost, end.seen);
  state.seen = 4;
  const MergeGraph first = merge_graph(scene, state);
  EXPECT_DOUBLE_EQ(first.slots[0].after, 3);
  EXPECT_EQ(first.merged, 2);
  EXPECT_DOUBLE_EQ(first.multiplicity, 3);
  EXPECT_EQ(first.lost, 1);
  state.before = true;
  EXPECT_TRUE(merge_graph(scene, state).slots.empty());
}

TEST(Merges, AMergerThatDoesNotCountLosesNoToken) {
  Decision decision = merging();
  for (MergeEdge& edge : decision.layers[0].edges) {
    edge.count = edge.source == edge.target ? 1 : 0;
  }
  const Scene scene = scene_of(decision, 4);
  const MergeGraph graph = merge_graph(scene, clamped({}, scene.limits()));
  EXPECT_FALSE(graph.counts);
  EXPECT_DOUBLE_EQ(graph.lost, 1) << "the dropped one";
  EXPECT_DOUBLE_EQ(graph.not_counted, 3);
  EXPECT_DOUBLE_EQ(graph.multiplicity + graph.lost + graph.not_counted, graph.seen);
}

TEST(Merges, WhyTextGivesWeightsAndMultiplicitiesBeforeAndAfter) {
  const Scene scene = scene_of(merging(), 4);
  State state = clamped({}, scene.limits());
  state.token = 4;
  const WhyRow row = inspect_token(scene, state).rows[0];
  EXPECT_DOUBLE_EQ(row.multiplicity_before, 3);
  EXPECT_DOUBLE_EQ(row.multiplicity_after, 4);
  EXPECT_NE(
      why_text(row).find("Merged into 0 (key weight 0.4, value weight 0.5); that slot counted "
                         "as 3 tokens before and 4 after"),
      std::string::npos)
      << why_text(row);
  state.token = 0;
  const auto target = [&] { return why_text(inspect_token(scene, state).rows[0]); };
  EXPECT_NE(target().find("its slot counted as 1 token before and 4 after"), std::string::npos)
      << target();
  state.seen = 4;
  EXPECT_NE(target().find("its slot counted as 1 token before and 3 after"), std::string::npos);
  state.before = true;
  EXPECT_EQ(target().find("Merged"), std::string::npos);
}

TEST(Merges, ATargetIsOneOnlyOnceSomethingFoldedIntoIt) {
  const Scene scene = scene_of(merging(), 4);
  State state;
  state.seen = 4;
  state.before = true;
  EXPECT_EQ(letters_at(scene.decisions[0], 0, state), "KKKKNN");
  state.before = false;
  EXPECT_EQ(letters_at(scene.decisions[0], 0, state), "TMMDNN");
}

}  // namespace
}  // namespace kvscope
