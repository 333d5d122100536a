#include "kvscope/methods/metrics.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/log.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>

#include "kvscope/kernels/apply_decision.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/capture_writer.h"
#include "method_support.h"

namespace kvscope::testing {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
const FakeSizes sizes{2, 4, 2, 30, 8, 16};
constexpr int steps = 3;
constexpr int total = 30 + steps;

std::span<const float> numbers(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

/// A capture of a generated run over 33 tokens, of which the last three are decode steps or absent.
class Metrics : public ::testing::Test {
 protected:
  Metrics()
      : longer_(generated_run({2, 4, 2, total, 8, 16}, 41)),
        path_(std::string(KVSCOPE_BINARY_DIR) + "/metrics_test_" + std::to_string(::getpid()) +
              ".capture.h5") {}
  ~Metrics() override { std::remove(path_.c_str()); }

  /// The first 30 tokens, as the method sees them.
  FakeRun prompt() {
    std::vector<FakeLayer> layers;
    for (int layer = 0; layer < sizes.layers; ++layer) {
      const FakeLayer& all = longer_.tables(layer);
      layers.push_back({all.keys.narrow(1, 0, 30).contiguous(),
                        all.values.narrow(1, 0, 30).contiguous(),
                        all.queries.narrow(1, 0, 30).contiguous(),
                        all.output_weights,
                        {}});
    }
    return {sizes, std::move(layers)};
  }

  std::unique_ptr<CaptureReader> capture(bool decode) {
    FakeRun run = prompt();
    CaptureIndex index;
    index.shape = run.shape();
    index.layers = {0, 1};
    index.windows = {8};
    index.tokens = decode ? total : 30;
    index.prompt_tokens = index.context_tokens = 30;
    index.first_query = 0;
    index.capture_hash = run.capture_hash();
    index.profile = Profile::full;
    std::vector<DatasetSpec> specs;
    const auto declare = [&](const std::string& path, std::vector<std::int64_t> shape) {
      DatasetSpec spec;
      spec.path = path;
      spec.shape = std::move(shape);
      specs.push_back(spec);
    };
    for (int layer = 0; layer < 2; ++layer) {
      declare(layer_dataset(layer, "keys"), {2, 30, 8});
      declare(layer_dataset(layer, "values"), {2, 30, 8});
      declare(layer_dataset(layer, "queries"), {4, 30, 8});
      declare(layer_dataset(layer, "output_factor"), {4, 8, 8});
    }
    if (decode) {
      declare("steps/queries", {steps, 2, 4, 8});
      declare("steps/keys", {steps, 2, 2, 8});
      declare("steps/values", {steps, 2, 2, 8});
    }
    CaptureWriter writer(path_, index, run.tokens(), specs, {true, false});
    for (int layer = 0; layer < 2; ++layer) {
      write_layer(writer, run.tables(layer), layer, decode);
    }
    for (int step = 0; decode && step < steps; ++step) {
      writer.append_token(1, 30 + step, "t");
    }
    writer.finish(decode ? steps : 0);
    return std::make_unique<CaptureReader>(path_);
  }

  FakeRun longer_;

 private:
  void write_layer(CaptureWriter& writer, const FakeLayer& tables, int layer, bool decode) {
    writer.write(layer_dataset(layer, "keys"), {0, 0, 0}, {2, 30, 8}, numbers(tables.keys));
    writer.write(layer_dataset(layer, "values"), {0, 0, 0}, {2, 30, 8}, numbers(tables.values));
    writer.write(layer_dataset(layer, "queries"), {0, 0, 0}, {4, 30, 8}, numbers(tables.queries));
    const at::Tensor weights = tables.output_weights.to(at::kDouble);
    const at::Tensor factor =
        at::linalg_cholesky(weights.matmul(weights.transpose(1, 2))).to(at::kFloat).contiguous();
    writer.write(layer_dataset(layer, "output_factor"), {0, 0, 0}, {4, 8, 8}, numbers(factor));
    for (int step = 0; decode && step < steps; ++step) {
      const FakeLayer& all = longer_.tables(layer);
      for (const auto& [name, tensor] :
           {std::pair{"queries", all.queries}, std::pair{"keys", all.keys},
            std::pair{"values", all.values}}) {
        const at::Tensor row = tensor.select(1, 30 + step).contiguous();
        writer.write(std::string("steps/") + name, {step, layer, 0, 0}, {1, 1, row.size(0), 8},
                     numbers(row));
      }
    }
  }

  std::string path_;
};

/// Attention rows in float64 of queries at positions first.. over keys that stand at `tokens`, with
/// `extra` added to the logits.
at::Tensor rows_over(const at::Tensor& queries, int first, const at::Tensor& keys,
                     const at::Tensor& tokens, const at::Tensor& extra) {
  const at::Tensor position = at::arange(first, first + queries.size(0), at::kLong).unsqueeze(1);
  const at::Tensor logits = queries.matmul(keys.t()) / std::sqrt(8.0) + extra.unsqueeze(0);
  return at::softmax(logits.masked_fill(tokens.unsqueeze(0) > position, -infinity), -1);
}

/// One query head judged by the definition, projections written out through W_O itself.
struct Judged {
  double output_error = 0;
  double retained = 0;
  double retained_no_sinks = 0;
  std::vector<double> lost_alone;  ///< [tokens] error when this token alone is lost
};

Judged judge(FakeRun& all, const LayerDecision& layer, const CacheForm& form, int query_head,
             int first, int count, int tokens) {
  const FakeLayer& tables = all.tables(layer.layer);
  const int kv_head = query_head / 2;
  const at::Tensor q = tables.queries[query_head].narrow(0, first, count).to(at::kDouble);
  const at::Tensor k = tables.keys[kv_head].narrow(0, 0, tokens).to(at::kDouble);
  const at::Tensor v = tables.values[kv_head].narrow(0, 0, tokens).to(at::kDouble);
  const at::Tensor wo = tables.output_weights[query_head].to(at::kDouble);
  const at::Tensor place = at::arange(tokens, at::kLong);
  const at::Tensor none = at::zeros({tokens}, at::kDouble);
  const at::Tensor attention = rows_over(q, first, k, place, none);
  const at::Tensor full = attention.matmul(v).matmul(wo);
  const double norm = full.norm().item<double>();
  Judged judged;

  const LayerCache cut = apply_decision(
      {tables.keys.narrow(1, 0, layer.tokens), tables.values.narrow(1, 0, layer.tokens),
       SlotTable::full(layer.kv_heads, layer.tokens)},
      layer, form);
  const int slots = cut.slots.length[static_cast<std::size_t>(kv_head)];
  std::vector<float> stands;
  std::vector<float> counts;
  for (int slot = 0; slot < slots; ++slot) {
    stands.push_back(static_cast<float>(cut.slots.token[cut.slots.cell(kv_head, slot)]));
    counts.push_back(cut.slots.multiplicity[cut.slots.cell(kv_head, slot)]);
  }
  for (int token = layer.tokens; token < tokens; ++token) {
    stands.push_back(static_cast<float>(token));
    counts.push_back(1);
  }
  const auto joined = [&](const at::Tensor& rows, const at::Tensor& tail) {
    return at::cat({rows[kv_head].narrow(0, 0, slots).to(at::kDouble),
                    tail.narrow(0, layer.tokens, tokens - layer.tokens)});
  };
  const auto size = static_cast<std::int64_t>(stands.size());
  const at::Tensor small =
      rows_over(q, first, joined(cut.keys, k), table({size}, stands).to(at::kLong),
                at::log(table({size}, counts).to(at::kDouble)))
          .matmul(joined(cut.values, v))
          .matmul(wo);
  judged.output_error = (small - full).norm().item<double>() / norm;

  double rest = 0;
  for (int query = 0; query < count; ++query) {
    double kept = 0;
    double late = 0;
    double late_kept = 0;
    for (int token = 0; token < tokens; ++token) {
      const double weight = attention[query][token].item<double>();
      const bool holds =
          token >= layer.tokens || layer.removed_at[layer.cell(kv_head, token)] == alive;
      kept += holds ? weight : 0;
      late += token >= 4 ? weight : 0;
      late_kept += token >= 4 && holds ? weight : 0;
    }
    judged.retained += kept / count;
    rest += late_kept / late / count;
  }
  judged.retained_no_sinks = rest;
  for (int token = 0; token < layer.tokens; ++token) {
    at::Tensor without = none.clone();
    without[token] = -infinity;
    const at::Tensor changed = rows_over(q, first, k, place, without).matmul(v).matmul(wo);
    judged.lost_alone.push_back((changed - full).norm().item<double>() / norm);
  }
  return judged;
}

void expect_metrics(FakeRun& all, const Decision& decision, int first, int count, int tokens) {
  const DecisionMetrics& metrics = decision.metrics;
  ASSERT_EQ(metrics.output_error.size(), 8U);
  ASSERT_EQ(metrics.lost_error.size(), static_cast<std::size_t>(2 * 2 * decision.tokens));
  for (const LayerDecision& layer : decision.layers) {
    std::vector<Judged> heads;
    for (int query_head = 0; query_head < 4; ++query_head) {
      heads.push_back(judge(all, layer, decision.form, query_head, first, count, tokens));
      const auto at = static_cast<std::size_t>(layer.layer * 4 + query_head);
      EXPECT_NEAR(metrics.output_error[at], heads.back().output_error, 2e-5);
      EXPECT_NEAR(metrics.retained_mass[at], heads.back().retained, 1e-5);
      EXPECT_NEAR(metrics.retained_mass_no_sinks[at], heads.back().retained_no_sinks, 1e-5);
    }
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      for (int token = 0; token < layer.tokens; ++token) {
        const std::size_t cell = layer.cell(kv_head, token);
        const auto place = static_cast<std::size_t>(token);
        const auto first_head = static_cast<std::size_t>(2 * kv_head);
        const double expected =
            layer.removed_at[cell] == alive
                ? 0
                : (heads[first_head].lost_alone[place] + heads[first_head + 1].lost_alone[place]) /
                      2;
        EXPECT_NEAR(
            metrics.lost_error[static_cast<std::size_t>(layer.layer * 2 * layer.tokens) + cell],
            expected, 1e-5 + 1e-3 * expected)
            << kv_head << " " << token;
      }
    }
  }
}

std::vector<Decision> some_decisions(FakeRun run) {
  std::vector<Decision> decisions;
  for (const char* method : {"knorm", "snapkv:window=8 | adakv", "knorm | pivot",
                             "knorm | nearest_key:multiplicity=true", "full"}) {
    decisions.push_back(decided(run, method, "11"));
  }
  return decisions;
}

TEST_F(Metrics, JudgedByTheLastPromptQueries) {
  const auto reader = capture(false);
  std::vector<Decision> decisions = some_decisions(prompt());
  compute_metrics(*reader, decisions, MetricsOptions::parse("last:7"));
  for (const Decision& decision : decisions) {
    SCOPED_TRACE(decision.method);
    EXPECT_EQ(decision.metrics.query_count, 7);
    EXPECT_TRUE(decision.metrics.seen_by_method);
    expect_metrics(longer_, decision, 23, 7, 30);
  }
  for (const float error : decisions.back().metrics.output_error) {
    EXPECT_EQ(error, 0.0F);  // full
  }
}

TEST_F(Metrics, JudgedByDecodeQueries) {
  const auto reader = capture(true);
  std::vector<Decision> decisions = some_decisions(prompt());
  compute_metrics(*reader, decisions, MetricsOptions{});
  for (const Decision& decision : decisions) {
    SCOPED_TRACE(decision.method);
    EXPECT_EQ(decision.metrics.query_count, steps);
    EXPECT_FALSE(decision.metrics.seen_by_method);
    expect_metrics(longer_, decision, 30, steps, total);
  }
}

TEST_F(Metrics, LowBitValuesCostOutputByTheirBits) {
  const auto reader = capture(false);
  std::vector<Decision> decisions;
  for (const auto& [method, slots] :
       std::vector<std::pair<const char*, const char*>>{{"knorm | low_bit:bits=8", "30"},
                                                        {"knorm | low_bit", "30"},
                                                        {"knorm", "11"},
                                                        {"knorm | low_bit", "11"}}) {
    FakeRun run = prompt();
    decisions.push_back(decided(run, method, slots));
  }
  EXPECT_EQ(decisions[2].layers[0].fate, decisions[3].layers[0].fate) << "the choice is knorm's";
  EXPECT_EQ(decisions[1].form.value_bits, 4);
  compute_metrics(*reader, decisions, MetricsOptions::parse("last:7"));
  const auto error = [&](std::size_t which) {
    const std::vector<float>& errors = decisions[which].metrics.output_error;
    return std::accumulate(errors.begin(), errors.end(), 0.0F) / static_cast<float>(errors.size());
  };
  EXPECT_GT(error(0), 0);
  EXPECT_LT(error(0), 0.01F);  // half a step in 127, less what averages out
  EXPECT_GT(error(1), 8 * error(0));
  EXPECT_LT(error(1), 0.15F);
  EXPECT_NE(error(3), error(2));
}

TEST_F(Metrics, RefusesADecisionOfAnotherRun) {
  const auto reader = capture(false);
  std::vector<Decision> decisions = some_decisions(prompt());
  decisions[1].capture_hash = "fedcba9876543210";
  expect_error([&] { compute_metrics(*reader, decisions, MetricsOptions::parse("last:7")); },
               ErrorCode::usage, "another prompt or model");
}

TEST(MetricsText, IsDecodeLastOrNone) {
  EXPECT_EQ(MetricsOptions::parse("last:12").last, 12);
  EXPECT_EQ(static_cast<int>(MetricsOptions::parse("none").queries),
            static_cast<int>(MetricsOptions::Queries::none));
  for (const char* text : {"", "last", "last:", "last:0", "last:-3", "last:2x", "first:3"}) {
    expect_error([&] { MetricsOptions::parse(text); }, ErrorCode::usage, "unknown population");
  }
}

}  // namespace
}  // namespace kvscope::testing
