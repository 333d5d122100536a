#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

#include "kvscope/runtime/live_run.h"
#include "reference_model.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

constexpr int prompt_tokens = 20;

class LiveEvidenceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    LiveRunOptions options;
    options.statistics_window = 8;
    run_ = LiveRun::start(fake_model(), fake_prompt(prompt_tokens), options);
    run_->prefill(true, nullptr);
    expected_ = reference_forward(FakeModelFile(), run_->tokens().id);
  }

  std::unique_ptr<LiveRun> run_;
  ReferenceResult expected_;
};

TEST_F(LiveEvidenceTest, KeysAndValuesInBothFrames) {
  for (int layer = 0; layer < 2; ++layer) {
    const auto l = static_cast<std::size_t>(layer);
    const auto evidence = run_->layer(layer);
    const at::Tensor keys = evidence->keys(Frame::post_rope);
    const at::Tensor pre_rope = evidence->keys(Frame::pre_rope);
    ASSERT_EQ(keys.sizes(), (std::vector<std::int64_t>{2, prompt_tokens, 8}));
    for (std::int64_t token = 0; token < prompt_tokens; ++token) {
      const auto t = static_cast<std::size_t>(token);
      EXPECT_LT(worst(keys.select(1, token).reshape({-1}), expected_.keys[l][t]), 2e-5);
      EXPECT_LT(worst(pre_rope.select(1, token).reshape({-1}), expected_.keys_pre_rope[l][t]),
                2e-5);
      EXPECT_LT(worst(evidence->values().select(1, token).reshape({-1}), expected_.values[l][t]),
                2e-5);
    }
  }
}

TEST_F(LiveEvidenceTest, AttentionRowsAndColumnsAreTheReferenceMap) {
  const auto evidence = run_->layer(1);
  const at::Tensor rows = evidence->attention(8);
  const at::Tensor sum = evidence->attention_sum();
  const at::Tensor squares = evidence->attention_sum_squares();
  const at::Tensor max = evidence->attention_max();
  const at::Tensor window = evidence->window_sum(4);
  const at::Tensor window_squares = evidence->window_sum_squares(4);
  EXPECT_LT(worst(rows.sum(-1), at::ones({4, 8})), 1e-5);
  for (std::int64_t head = 0; head < 4; ++head) {
    const auto& map = expected_.attention[1][static_cast<std::size_t>(head)];
    for (std::size_t key = 0; key < prompt_tokens; ++key) {
      const auto column = static_cast<std::int64_t>(key);
      double total = 0;
      double total_squares = 0;
      double largest = 0;
      double newest = 0;
      double newest_squares = 0;
      for (std::size_t query = 0; query < prompt_tokens; ++query) {
        const double p = map[query][key];
        total += p;
        total_squares += p * p;
        largest = std::max(largest, p);
        newest += query >= prompt_tokens - 4 ? p : 0;
        newest_squares += query >= prompt_tokens - 4 ? p * p : 0;
      }
      EXPECT_NEAR(cell(sum, {head, column}), total, 1e-4);
      EXPECT_NEAR(cell(squares, {head, column}), total_squares, 1e-4);
      EXPECT_NEAR(cell(max, {head, column}), largest, 1e-5);
      EXPECT_NEAR(cell(window, {head, column}), newest, 1e-5);
      EXPECT_NEAR(cell(window_squares, {head, column}), newest_squares, 1e-5);
      EXPECT_NEAR(cell(rows, {head, 0, column}), map[prompt_tokens - 8][key], 1e-5);
      EXPECT_NEAR(cell(evidence->last_query(), {head, column}), map.back()[key], 1e-5);
    }
  }
}

TEST_F(LiveEvidenceTest, WindowLongerThanThePromptTakesAllOfIt) {
  LiveRunOptions options;
  options.statistics_window = 64;
  const auto run = LiveRun::start(fake_model(), fake_prompt(5), options);
  run->prefill(true, nullptr);
  EXPECT_LT(worst(run->layer(0)->window_sum(32), run->layer(0)->attention_sum()), 1e-5);
}

TEST_F(LiveEvidenceTest, LseNormalisesTheRows) {
  const auto evidence = run_->layer(0);
  const at::Tensor q = evidence->queries(3);
  const at::Tensor k = evidence->keys(Frame::post_rope);
  // Newest query of query head 2 (KV head 1): exp(scale q.k - lse) is its attention row.
  const at::Tensor logits =
      at::matmul(k.select(0, 1), q.select(0, 2).select(0, 2)).div(std::sqrt(8.0));
  const at::Tensor row = logits.sub(evidence->lse(3).select(0, 2).select(0, 2)).exp();
  EXPECT_LT(worst(row, evidence->last_query().select(0, 2)), 1e-5);
}

TEST_F(LiveEvidenceTest, ProjectedNormsAreThoseOfTheProductWithWo) {
  const auto evidence = run_->layer(1);
  const at::Tensor values = evidence->values();
  const at::Tensor weights = evidence->output_weights();
  ASSERT_EQ(weights.sizes(), (std::vector<std::int64_t>{4, 8, 24}));
  const std::vector<float> wo = FakeModelFile().values(Weight::wo, 1);
  EXPECT_EQ(cell(weights, {2, 3, 5}), wo[5 * 32 + 2 * 8 + 3]);  // wo[hidden 5, head 2, channel 3]
  for (std::int64_t head = 0; head < 4; ++head) {
    const at::Tensor projected = at::matmul(values.select(0, head / 2), weights.select(0, head));
    for (const int order : {1, 2}) {
      const at::Tensor norm = at::linalg_vector_norm(projected, order, {-1});
      EXPECT_LT(worst(evidence->projected_value_norm(order).select(0, head).div(norm),
                      at::ones({prompt_tokens})),
                2e-6);
    }
  }
  EXPECT_LT(worst(evidence->key_norm(),
                  at::linalg_vector_norm(evidence->keys(Frame::post_rope), 2, {-1})),
            1e-6);
}

TEST_F(LiveEvidenceTest, NamesWhatItLacks) {
  const auto evidence = run_->layer(0);
  EXPECT_EQ(error_of([&] { evidence->attention(9); }), code(ErrorCode::missing_data));
  EXPECT_EQ(error_of([&] { evidence->window_sum(9); }), code(ErrorCode::missing_data));
  EXPECT_EQ(error_of([&] { evidence->projected_value_norm(3); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { run_->layer(2); }), code(ErrorCode::usage));
  const auto bare = LiveRun::start(fake_model(), fake_prompt(6), {});
  bare->prefill(false, nullptr);
  EXPECT_EQ(error_of([&] { bare->layer(0)->attention_sum(); }), code(ErrorCode::missing_data));
  EXPECT_EQ(bare->layer(0)->attention(6).size(1), 6);  // queries are always kept
}

TEST_F(LiveEvidenceTest, MomentsFollowTheRun) {
  EXPECT_EQ(run_->layer(1)->moment().tokens_seen, prompt_tokens);
  EXPECT_EQ(run_->layer(1)->moment().phase, Phase::prefill);
  run_->decode(3, nullptr);
  const Moment moment = run_->layer(1)->moment();
  EXPECT_EQ(moment.layer, 1);
  EXPECT_EQ(moment.step, 1);
  EXPECT_EQ(moment.phase, Phase::decode);
  EXPECT_NEAR(run_->layer(1)->attention_sum().sum().item<double>(), 4.0 * (prompt_tokens + 1),
              1e-3);
}

}  // namespace
}  // namespace kvscope::test
