#include <cmath>

#include "kvscope/kernels/apply_decision.h"
#include "method_support.h"

namespace kvscope::testing {
namespace {

using ::testing::ElementsAre;

/// Two heads, six tokens, of which K-norm at 2 slots keeps 0 and 1 in both heads: their keys are
/// the shortest, pointing east and north.
FakeRun six_keys() {
  FakeRun run = attention_run({1, 2, 2, 6, 2, 2}, std::vector<float>(72, 0.0F));
  run.tables(0).keys = table({2, 6, 2}, {1, 0, 0, 1, 3, 4, 4, 3, -5, 0, 0, 2,  //
                                         1, 0, 0, 1, 2, 0, 2, 0, 2,  0, 0, 2});
  run.tables(0).values = table({2, 6, 2}, {1, 0, 0, 1, 0, 3, 4, 0, 5, 5, 0, 0,  //
                                           1, 0, 0, 1, 0, 2, 4, 0, 0, 6, 1, 1});
  return run;
}

std::vector<float> value_row(const Decision& decision, FakeRun& run, int kv_head, int slot,
                             bool key = false) {
  const FakeLayer& tables = run.tables(0);
  const LayerCache cut = apply_decision({tables.keys, tables.values, SlotTable::full(2, 6)},
                                        decision.layers[0], decision.form);
  const at::Tensor row = (key ? cut.keys : cut.values)[kv_head][slot].contiguous();
  return {row.const_data_ptr<float>(), row.const_data_ptr<float>() + 2};
}

TEST(Mergers, NearestKeyBlendsValuesByCosineAndNorms) {
  FakeRun run = six_keys();
  const Decision decision = decided(run, "knorm | nearest_key", "2");
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(0, 1));
  EXPECT_EQ(fate_letters(decision.layers[0]).substr(0, 6), "TTMMEE");
  // Token 2 (cosine .8 to north, norms 3 and 1): weight .8 * 3 / 4 = .6 into token 1.
  const std::vector<float> north = value_row(decision, run, 0, 1);
  EXPECT_NEAR(north[0], 0, 1e-6);
  EXPECT_NEAR(north[1], (1 + .6 * 3) / 1.6, 1e-6);
  // Token 3 (cosine .8 to east, norms 4 and 1): .8 * 4 / 5 = .64 into token 0.
  EXPECT_NEAR(value_row(decision, run, 0, 0)[0], (1 + .64 * 4) / 1.64, 1e-6);
  // Token 4 points west of everything kept (best cosine 0): weight 0. Token 5 has no value.
  EXPECT_EQ(reason(decision, 0, 0, 4), Reason::merger_declined);
  EXPECT_EQ(reason(decision, 0, 0, 5), Reason::merger_declined);
  EXPECT_THAT(value_row(decision, run, 0, 1, true), ElementsAre(0, 1));  // keys stay
}

TEST(Mergers, NearestKeySumsManySourcesOfOneTarget) {
  FakeRun run = six_keys();
  const Decision decision = decided(run, "knorm | nearest_key", "2");
  // Head 1: tokens 2, 3, 4 lie on token 0 (cosine 1; norms 2, 4, 6 against 1).
  const double a = 2.0 / 3;
  const double b = 4.0 / 5;
  const double c = 6.0 / 7;
  const std::vector<float> east = value_row(decision, run, 1, 0);
  EXPECT_NEAR(east[0], (1 + b * 4) / (1 + a + b + c), 2e-6);
  EXPECT_NEAR(east[1], (a * 2 + c * 6) / (1 + a + b + c), 2e-6);
}

/// knorm keeps tokens 2 and 5 of six with these attention sums; keys play no other part.
FakeRun followed(const std::vector<float>& last_row) {
  std::vector<float> rows(36, 0.0F);
  std::copy(last_row.begin(), last_row.end(), rows.begin() + 30);
  FakeRun run = attention_run({1, 1, 1, 6, 2, 2}, rows);
  run.tables(0).keys = table({1, 6, 2}, {3, 0, 4, 0, 1, 0, 5, 0, 6, 0, 1, 0});
  run.tables(0).values = table({1, 6, 2}, {1, 0, 0, 1, 2, 2, 0, 4, 8, 0, 1, 1});
  return run;
}

std::vector<float> cam_value(FakeRun& run, const Decision& decision, int slot, bool key = false) {
  const FakeLayer& tables = run.tables(0);
  const LayerCache cut = apply_decision({tables.keys, tables.values, SlotTable::full(1, 6)},
                                        decision.layers[0], decision.form);
  const at::Tensor row = (key ? cut.keys : cut.values)[0][slot].contiguous();
  return {row.const_data_ptr<float>(), row.const_data_ptr<float>() + 2};
}

TEST(Mergers, CamAddsWholeValuesWhereChanceIsOne) {
  // Evicted tokens received at least as much as what follows them: certain. Token 1 received
  // nothing.
  FakeRun run = followed({0.4F, 0.0F, 0.1F, 0.2F, 0.2F, 0.1F});
  const Decision decision =
      decided(run, "knorm | cam:received=all,rank=received,candidates=6", "2");
  EXPECT_THAT(kept(decision, 0, 0), ElementsAre(2, 5));
  EXPECT_EQ(fate_letters(decision.layers[0]), "METMMT");
  EXPECT_EQ(reason(decision, 0, 0, 1), Reason::merger_declined);
  // Token 0 goes to 2 and 5 in halves; 3 and 4 to 5 alone.
  EXPECT_THAT(cam_value(run, decision, 0), ElementsAre(2 + .5F, 2));
  EXPECT_THAT(cam_value(run, decision, 1), ElementsAre(1 + .5F + 8, 1 + 4));
  EXPECT_THAT(cam_value(run, decision, 1, true), ElementsAre(1, 0)) << "keys stay";
  const Decision narrow =
      decided(run, "knorm | cam:received=all,rank=received,candidates=6,window=1", "2");
  EXPECT_THAT(cam_value(run, narrow, 0), ElementsAre(2 + 1, 2)) << "all of token 0 into token 2";
}

TEST(Mergers, CamTakesTheMostReceivingAndNoneAfterThePrompt) {
  FakeRun run = followed({0.3F, 0.1F, 0.1F, 0.2F, 0.2F, 0.1F});
  const auto letters = [&](const std::string& text) {
    return fate_letters(decided(run, text, "2").layers[0]);
  };
  EXPECT_EQ(letters("knorm | cam:received=all,rank=received,candidates=1"), "METEET");
  EXPECT_EQ(letters("knorm | cam:received=all,rank=received,candidates=2"), "METEMT")
      << "of equal ones the later";
  EXPECT_EQ(letters("knorm | cam"), "EEKEEK") << "nothing was decoded yet";
}

TEST(Mergers, CamIsEvictionWhereNothingWasReceived) {
  FakeRun run = followed({0.0F, 0.0F, 0.5F, 0.0F, 0.0F, 0.5F});
  const Decision cam = decided(run, "knorm | cam:received=all,rank=received,candidates=6", "2");
  EXPECT_EQ(fate_letters(cam.layers[0]), "EEKEEK");
  EXPECT_THAT(cam_value(run, cam, 0), ElementsAre(2, 2));
}

TEST(Mergers, CamDrawsByTheShareOfAttention) {
  int merged = 0;
  for (int seed = 0; seed < 400; ++seed) {  // token 4: .1 against .4 of token 5, a quarter
    FakeRun run = followed({0.0F, 0.0F, 0.5F, 0.0F, 0.1F, 0.4F});
    const Decision decision = decided(
        run, "knorm | cam:received=all,rank=received,candidates=6,seed=" + std::to_string(seed),
        "2");
    merged += fate_letters(decision.layers[0]) == "EEKEMT" ? 1 : 0;
  }
  EXPECT_NEAR(merged, 100, 4 * std::sqrt(400 * .25 * .75));
  FakeRun run = followed({0.0F, 0.0F, 0.5F, 0.0F, 0.1F, 0.4F});
  EXPECT_EQ(fate_letters(
                decided(run, "knorm | cam:received=all,rank=received,candidates=6,chance=half", "2")
                    .layers[0]),
            "EEKEEK");
}

/// The authors' LLaMA code: beside all kept tokens behind it, and a fixed part of the value.
TEST(Mergers, CamAsItsAuthors) {
  FakeRun run = followed({0.4F, 0.0F, 0.1F, 0.2F, 0.2F, 0.1F});
  const std::string official =
      "knorm | "
      "cam:received=newest,rank=received,candidates=6,beside=recent,part=window,chance=above";
  const Decision decision = decided(run, official + ",window=4", "2");
  EXPECT_EQ(fate_letters(decision.layers[0]), "METMMT");
  // A quarter of each value, though tokens 3 and 4 join one token alone.
  EXPECT_THAT(cam_value(run, decision, 0), ElementsAre(2 + .25F, 2));
  EXPECT_THAT(cam_value(run, decision, 1), ElementsAre(1 + .25F + 2, 1 + 1));
}

TEST(Mergers, D2oRefusesASecondCutAndDropsWhatResemblesLess) {
  FakeRun run = six_keys();
  // Head 0: cosines .8, .8, 0, 1 of tokens 2 to 5; head 1: 1, 1, 1, 1. Mean .825.
  EXPECT_EQ(fate_letters(decided(run, "knorm | d2o:gate=token", "2").layers[0]), "KTEEEMTTMMMM");
  // Slots: .9, .9, .5, 1.
  const Decision slots = decided(run, "knorm | d2o", "2");
  EXPECT_EQ(fate_letters(slots.layers[0]), "TTMMEMTTMMEM");
  // Head 0, token 1: itself, .8 of token 2 and 1 of token 5, whose value is 0; by three.
  const std::vector<float> value = value_row(slots, run, 0, 1);
  EXPECT_NEAR(value[1], (1 + .8 * 3) / 3, 1e-6);
  const std::vector<float> key = value_row(slots, run, 0, 1, true);
  EXPECT_NEAR(key[0], .8 * 3 / 3, 1e-6);
  EXPECT_NEAR(key[1], (1 + .8 * 4 + 2) / 3, 1e-6);
}

TEST(Mergers, NearestKeyGatesByCosineAndByFraction) {
  FakeRun run = six_keys();
  const Decision gated = decided(run, "knorm | nearest_key:gate=0.9", "2");
  EXPECT_EQ(fate_letters(gated.layers[0]).substr(0, 6), "KKEEEE");
  EXPECT_EQ(fate_letters(gated.layers[0]).substr(6, 6), "TTMMMM");
  // Head 0: similarities .8, .8, 0, 1; half of them: those of at least the median .8.
  const Decision half = decided(run, "knorm | nearest_key:fraction=0.5", "2");
  EXPECT_EQ(fate_letters(half.layers[0]).substr(0, 6), "TTMMEE");
  // A quarter: the .75 quantile .85 lets token 5 alone pass, which has no value to give.
  const Decision quarter = decided(run, "knorm | nearest_key:fraction=0.25", "2");
  EXPECT_EQ(fate_letters(quarter.layers[0]).substr(0, 6), "KKEEEE");
}

TEST(Mergers, NearestKeyCountsMultiplicityOnlyWhenAsked) {
  FakeRun run = six_keys();
  EXPECT_EQ(decided(run, "knorm | nearest_key", "2").layers[0].edges[0].count, 0.0F);
  EXPECT_EQ(decided(run, "knorm | nearest_key:multiplicity=true", "2").layers[0].edges[0].count,
            1.0F);
}

TEST(Mergers, PivotTakesTheMeanOfItselfAndTheAverages) {
  FakeRun run = six_keys();
  const Decision decision = decided(run, "knorm | pivot", "2");
  // Head 0: token 4's best cosine is 0, with token 1 (token 0 gives -1); 2 and 5 go to 1, 3 to 0.
  EXPECT_EQ(fate_letters(decision.layers[0]).substr(0, 6), "TTMMMM");
  const std::vector<float> key = value_row(decision, run, 0, 0, true);
  EXPECT_NEAR(key[0], (1 + (1 + 4) / 2.0) / 2, 1e-6);
  EXPECT_NEAR(key[1], (0 + (0 + 3) / 2.0) / 2, 1e-6);
  const std::vector<float> value = value_row(decision, run, 0, 1);
  EXPECT_NEAR(value[0], (0 + 0 + 5 / 2.0 + 0) / 4, 1e-6);
  EXPECT_NEAR(value[1], (1 + (1 + 3) / 2.0 + (1 + 5) / 2.0 + (1 + 0) / 2.0) / 4, 1e-6);
}

/// specs/decomposition.md 6.1.
TEST(Mergers, NeverChangeWhichTokensHoldASlot) {
  FakeRun run = generated_run({2, 4, 2, 37, 8, 16}, 21);
  const Decision plain = decided(run, "knorm", "9");
  for (const char* merger : {"drop", "nearest_key", "pivot"}) {
    const Decision merged = decided(run, std::string("knorm | ") + merger, "9");
    for (int layer = 0; layer < 2; ++layer) {
      EXPECT_EQ(kept(plain, layer, 0), kept(merged, layer, 0)) << merger;
      EXPECT_EQ(kept(plain, layer, 1), kept(merged, layer, 1)) << merger;
    }
  }
}

}  // namespace
}  // namespace kvscope::testing
