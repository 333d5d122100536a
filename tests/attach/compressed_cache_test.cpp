#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "attached_model.h"
#include "kvscope/core/decision.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"

namespace kvscope::test {
namespace {

constexpr int prompt_tokens = 8;

/// Numbers that differ everywhere: [1, heads, rows, 8] of tokens first, first + 1, ...
at::Tensor made_up(int heads, int first, int rows, double seed) {
  const at::Tensor cell = at::arange(0, std::int64_t{heads} * 8, at::kFloat).view({heads, 1, 8});
  const at::Tensor token = at::arange(first, first + rows, at::kFloat).view({1, rows, 1});
  return cell.mul(0.7).add(token.mul(1.3)).add(seed).sin().unsqueeze(0);
}

/// A prompt of eight tokens, then a cache that others cut as they like. Both layers are alike.
class CompressedCache : public testing::Test {
 protected:
  void open(const std::string& method = "press(0.5)") {
    nlohmann::json request = request_for(folder_ / "x.capture.h5", model_->shape(), "qkv", 4);
    request["model"]["method"] = method;
    request["evicted_mass"] = true;
    operators_.emplace(request, output_weights_of(*model_));
    key_ = made_up(2, 0, prompt_tokens, 0);
    value_ = made_up(2, 0, prompt_tokens, 0.5);
    pass(std::vector<std::int32_t>(prompt_tokens, 3), 0);
  }

  /// Keeps these columns, by KV head.
  void cut(const std::vector<std::vector<std::int64_t>>& columns) {
    const auto gathered = [&](const at::Tensor& rows) {
      std::vector<at::Tensor> heads;
      for (std::size_t head = 0; head < columns.size(); ++head) {
        heads.push_back(rows[0][static_cast<std::int64_t>(head)].index_select(
            0, at::tensor(columns[head], at::kLong)));
      }
      return at::stack(heads).unsqueeze(0);
    };
    key_ = gathered(key_);
    value_ = gathered(value_);
  }

  /// One more token, or more.
  void step(int first, int rows = 1) {
    key_ = at::cat({key_, made_up(2, first, rows, 0)}, 2);
    value_ = at::cat({value_, made_up(2, first, rows, 0.5)}, 2);
    pass(std::vector<std::int32_t>(static_cast<std::size_t>(rows), 5), first);
  }

  void pass(const std::vector<std::int32_t>& ids, int first) {
    const auto rows = static_cast<int>(ids.size());
    operators_->begin_pass(ids, first);
    for (int layer = 0; layer < 2; ++layer) {
      SeenAttention seen;
      seen.layer = layer;
      seen.query = made_up(4, first, rows, 1);
      seen.key = key_;
      seen.value = value_;
      seen.scale = model_->shape().attention_scale;
      if (rows > 1) {
        const auto columns = static_cast<int>(key_.size(2));
        seen.mask = built_mask(columns - rows, rows, 0, columns, 0);
      }
      seen.hidden_heads = hidden_heads_;
      seen.hidden_columns = hidden_columns_;
      operators_->attention(seen);
    }
    operators_->end_pass();
  }

  /// Attention of token `query` to `tokens`, query head 0, by hand.
  double probability(int query, const std::vector<int>& tokens, int key) const {
    const at::Tensor q = made_up(4, query, 1, 1)[0][0][0];
    double sum = 0;
    double wanted = 0;
    for (const int token : tokens) {
      const double weight = std::exp(q.dot(made_up(2, token, 1, 0)[0][0][0]).item<double>() *
                                     model_->shape().attention_scale);
      sum += weight;
      wanted = token == key ? weight : wanted;
    }
    return wanted / sum;
  }

  /// What step `row` is stored to see, query head 0: token -> probability.
  std::map<int, float> stored(const CaptureReader& reader, int row) const {
    const auto count = static_cast<std::size_t>(reader.shape("steps/top_key").back());
    std::vector<std::int32_t> keys(count);
    std::vector<float> values(count);
    const auto ranks = static_cast<std::int64_t>(count);
    reader.read("steps/top_key", {row, 0, 0, 0}, {1, 1, 1, ranks}, std::span(keys));
    reader.read("steps/top_probability", {row, 0, 0, 0}, {1, 1, 1, ranks}, std::span(values));
    std::map<int, float> found;
    for (std::size_t rank = 0; rank < count && keys[rank] >= 0; ++rank) {
      found[keys[rank]] = values[rank];
    }
    return found;
  }

  void expect_row(const CaptureReader& reader, int row, const std::vector<int>& tokens) const {
    const std::map<int, float> found = stored(reader, row);
    ASSERT_EQ(found.size(), tokens.size());
    for (const int token : tokens) {
      ASSERT_TRUE(found.contains(token)) << token;
      EXPECT_NEAR(found.at(token), probability(prompt_tokens + row, tokens, token), 1e-3) << token;
    }
  }

  std::shared_ptr<const Model> model_ = attached_model(false, 0);
  CaptureFolder folder_;
  std::optional<Operators> operators_;
  at::Tensor key_;
  at::Tensor value_;
  std::optional<at::Tensor> hidden_heads_;
  std::optional<at::Tensor> hidden_columns_;
};

TEST_F(CompressedCache, SlotsInAnyOrderAreTracedToTheirTokens) {
  open();
  cut({{7, 0, 4, 2}, {1, 6, 3, 5}});
  step(8);
  step(9);
  const nlohmann::json report = operators_->close();
  ASSERT_EQ(report.at("error"), "");
  const CaptureReader reader(folder_ / "x.capture.h5");
  EXPECT_EQ(reader.index().method, "press(0.5)");
  expect_row(reader, 0, {0, 2, 4, 7, 8});
  expect_row(reader, 1, {0, 2, 4, 7, 8, 9});
  std::vector<std::int32_t> slots(4);
  reader.read("steps/cache_slots", {0, 0, 0}, {1, 2, 2}, std::span(slots));
  EXPECT_EQ(slots, (std::vector<std::int32_t>{5, 5, 5, 5}));
  std::vector<float> lost(4);
  reader.read("steps/evicted_mass", {0, 0, 0}, {1, 1, 4}, std::span(lost));
  const double kept = probability(8, {0, 1, 2, 3, 4, 5, 6, 7, 8}, 0) +
                      probability(8, {0, 1, 2, 3, 4, 5, 6, 7, 8}, 2) +
                      probability(8, {0, 1, 2, 3, 4, 5, 6, 7, 8}, 4) +
                      probability(8, {0, 1, 2, 3, 4, 5, 6, 7, 8}, 7) +
                      probability(8, {0, 1, 2, 3, 4, 5, 6, 7, 8}, 8);
  EXPECT_NEAR(lost[0], 1 - kept, 1e-5);
  EXPECT_EQ(check_file(folder_ / "x.capture.h5"), std::vector<std::string>{});

  const Decision decision = read_decision(report.at("decision_path"));
  EXPECT_EQ(report.at("decision_path"), folder_ / "x.decision.h5");
  EXPECT_EQ(decision.method, "press(0.5)");
  EXPECT_FALSE(decision.replayed);
  EXPECT_EQ(decision.capture_hash, reader.index().capture_hash);
  EXPECT_EQ(decision.keep, "0.5000");
  ASSERT_EQ(decision.events.size(), 1u);
  EXPECT_EQ(decision.events[0].step, 0);
  EXPECT_EQ(decision.events[0].tokens_seen, 8);
  EXPECT_EQ(fate_letters(decision.layers[1]),
            "KEKEKEEKKK"
            "EKEKEKKEKK");
}

TEST_F(CompressedCache, HiddenCellsAreEvictedWhateverTheyHold) {
  open();
  hidden_heads_ = at::tensor({0, 0, 0, 1}, at::kLong);
  hidden_columns_ = at::tensor({1, 2, 5, 7}, at::kLong);
  for (int step_token = 8; step_token < 10; ++step_token) {
    key_[0][0][1].fill_(-1000.0 * step_token);  // an invented key, written over the real one
    key_[0][0][2].fill_(-1000.0);
    step(step_token);
  }
  const nlohmann::json report = operators_->close();
  ASSERT_EQ(report.at("error"), "");
  const CaptureReader reader(folder_ / "x.capture.h5");
  expect_row(reader, 0, {0, 3, 4, 6, 7, 8});
  expect_row(reader, 1, {0, 3, 4, 6, 7, 8, 9});
  std::vector<std::int32_t> slots(2);
  reader.read("steps/cache_slots", {1, 0, 0}, {1, 1, 2}, std::span(slots));
  EXPECT_EQ(slots, (std::vector<std::int32_t>{7, 9})) << "ragged";
  const Decision decision = read_decision(report.at("decision_path"));
  EXPECT_EQ(fate_letters(decision.layers[0]),
            "KEEKKEKKKK"
            "KKKKKKKEKK");
  EXPECT_EQ(decision.layers[0].granted, (std::vector<int>{5, 7}));
}

TEST_F(CompressedCache, LaterCutsAreEventsOfTheirOwn) {
  open();
  cut({{0, 1, 2, 3, 6, 7}, {0, 1, 2, 3, 6, 7}});
  step(8);
  step(9);
  cut({{0, 6, 7, 5}, {1, 2, 3, 7}});  // columns: tokens 0 8 9 7 and 1 2 3 9
  step(10);
  const nlohmann::json report = operators_->close();
  ASSERT_EQ(report.at("error"), "");
  expect_row(CaptureReader(folder_ / "x.capture.h5"), 2, {0, 7, 8, 9, 10});
  const Decision decision = read_decision(report.at("decision_path"));
  ASSERT_EQ(decision.events.size(), 2u);
  EXPECT_EQ(decision.events[1].step, 2);
  EXPECT_EQ(decision.events[1].tokens_seen, 10);
  EXPECT_EQ(fate_letters(decision.layers[0]),
            "KEEEEEEKKKK"
            "EKKKEEEEEKK");
  EXPECT_EQ(decision.layers[0].removed_at[4], 0u);
  EXPECT_EQ(decision.layers[0].removed_at[1], 1u);
}

TEST_F(CompressedCache, TokensFedTogetherAfterTheCutAreStepsOfAQuestion) {
  open();
  cut({{0, 2, 4, 7}, {0, 2, 4, 7}});
  step(8, 3);
  step(11);
  ASSERT_EQ(operators_->close().at("error"), "");
  const CaptureReader reader(folder_ / "x.capture.h5");
  EXPECT_EQ(reader.index().steps, 4);
  expect_row(reader, 0, {0, 2, 4, 7, 8});
  expect_row(reader, 2, {0, 2, 4, 7, 8, 9, 10});
  expect_row(reader, 3, {0, 2, 4, 7, 8, 9, 10, 11});
  EXPECT_EQ(reader.tokens().segment[8], Segment::question);
  EXPECT_EQ(reader.tokens().segment[11], Segment::generated);
}

TEST_F(CompressedCache, MergedRowsEndTheCaptureAndNotTheRun) {
  open();
  cut({{0, 2, 4, 7}, {0, 2, 4, 7}});
  value_[0][1][2].mul_(0.5);
  step(8);
  EXPECT_EQ(operators_->status(), 2);
  step(9);
  const nlohmann::json report = operators_->close();
  EXPECT_NE(report.at("error").get<std::string>().find(
                "column 2 of KV head 1 holds a key and value that the run did not compute"),
            std::string::npos);
  EXPECT_EQ(report.at("path"), "");
  EXPECT_TRUE(folder_.empty());
}

TEST_F(CompressedCache, ACutThatNobodyAnnouncedIsNotCalledAFullCache) {
  open("full");
  cut({{0, 2, 4, 7}, {0, 2, 4, 7}});
  step(8);
  EXPECT_EQ(operators_->status(), 2);
  EXPECT_NE(operators_->error().find("method='NAME'"), std::string::npos);
}

TEST_F(CompressedCache, ASecondSequenceIsNotTheFirstOnesContinuation) {
  open();
  pass({3, 3, 3}, 0);
  EXPECT_EQ(operators_->status(), 2);
  EXPECT_NE(operators_->error().find("a capture is one sequence"), std::string::npos);
}

}  // namespace
}  // namespace kvscope::test
