/// Kept tokens, scores and merged rows of the reference implementations under tests/golden.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "kvscope/kernels/apply_decision.h"
#include "method_support.h"

namespace kvscope::testing {
namespace {

using Json = nlohmann::json;

Json golden(const std::string& name) {
  std::ifstream file(std::string(KVSCOPE_SOURCE_DIR) + "/tests/golden/" + name);
  return Json::parse(file);
}

FakeRun run_of(const Json& one) {
  const std::vector<int> sizes = one["sizes"];
  FakeRun run = generated_run({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]},
                              one["seed"].get<std::uint32_t>());
  run.decode_rows = one.value("decode_rows", 0);
  return run;
}

/// What a token's score may be off by before it can fall on the other side of a cut.
bool near_cut(float score, const Cut& cut) {
  const float close = 1e-4F * std::max(std::abs(cut.last_kept), std::abs(cut.first_lost)) + 1e-7F;
  return std::abs(score - cut.last_kept) <= close || std::abs(score - cut.first_lost) <= close;
}

/// Kept sets are the reference's, but for tokens whose score is too close to the cut to tell.
void expect_kept(const Decision& decision, const Json& reference, int& cells) {
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      const std::vector<int> list =
          reference[static_cast<std::size_t>(layer.layer)][static_cast<std::size_t>(kv_head)];
      const std::set<int> kept(list.begin(), list.end());
      for (int token = 0; token < layer.tokens; ++token) {
        const std::size_t cell = layer.cell(kv_head, token);
        if (near_cut(layer.scores[cell], layer.cut[static_cast<std::size_t>(kv_head)])) {
          continue;
        }
        ++cells;
        EXPECT_EQ(layer.removed_at[cell] == alive, kept.count(token) > 0)
            << "layer " << layer.layer << ", KV head " << kv_head << ", token " << token;
      }
    }
  }
}

/// The first layer's scores; where a rule decides, the reference pads and ours are NaN.
void expect_scores(const Decision& decision, const Json& reference, const Json& tolerance) {
  const LayerDecision& layer = decision.layers[0];
  for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
    const std::vector<double> expected = reference[static_cast<std::size_t>(kv_head)];
    for (std::size_t token = 0; token < expected.size(); ++token) {
      const float score = layer.scores[layer.cell(kv_head, static_cast<int>(token))];
      if (!std::isnan(score)) {
        EXPECT_NEAR(
            score, expected[token],
            tolerance[0].get<double>() * std::abs(expected[token]) + tolerance[1].get<double>())
            << "KV head " << kv_head << ", token " << token;
      }
    }
  }
}

/// Largest difference between the rows of a cut cache and the reference's, tokens ascending.
double worst_row(FakeRun& run, const Decision& decision, const Json& reference, bool keys) {
  double worst = 0;
  for (int layer = 0; layer < run.sizes().layers; ++layer) {
    const LayerCache cut =
        apply_decision({run.tables(layer).keys, run.tables(layer).values,
                        SlotTable::full(run.sizes().kv_heads, run.sizes().tokens)},
                       decision.layers[static_cast<std::size_t>(layer)], decision.form);
    const at::Tensor rows = (keys ? cut.keys : cut.values).contiguous();
    const float* cell = rows.const_data_ptr<float>();
    for (const Json& head : reference[static_cast<std::size_t>(layer)]) {
      for (const Json& row : head) {
        for (const Json& number : row) {
          worst = std::max(worst, std::abs(number.get<double>() - static_cast<double>(*cell++)));
        }
      }
    }
  }
  return worst;
}

void check_file(const std::string& name) {
  const Json file = golden(name);
  int cells = 0;
  for (const Json& one : file["cases"]) {
    const std::string method = one["method"];
    const std::string keep = one["keep"];
    SCOPED_TRACE(method + " @ " + keep);
    FakeRun run = run_of(one);
    const Decision decision = decided(run, method, keep);
    if (one.contains("shared")) {  // no head's own scores decide
      for (int layer = 0; layer < run.sizes().layers; ++layer) {
        const Json& heads = one["kept"][static_cast<std::size_t>(layer)];
        EXPECT_EQ(kept(decision, layer, 0), heads[0].get<std::vector<int>>());
        EXPECT_EQ(kept(decision, layer, run.sizes().kv_heads - 1),
                  heads[0].get<std::vector<int>>());
      }
    } else {
      expect_kept(decision, one["kept"], cells);
    }
    if (one.contains("scores")) {
      expect_scores(decision, one["scores"], one.value("score_tolerance", file["score_tolerance"]));
    }
    const double tolerance = file["value_tolerance"];
    if (one.contains("values") && !one.contains("note")) {
      EXPECT_LT(worst_row(run, decision, one["values"], false), tolerance);
    }
    if (one.contains("keys")) {
      EXPECT_LT(worst_row(run, decision, one["keys"], true), tolerance);
    }
  }
  EXPECT_GT(cells, 1000);
}

TEST(Golden, Kvpress) {
  check_file("kvpress_methods.json");
}

TEST(Golden, LaproxH2oAndMergersInFloat64) {
  check_file("float64_methods.json");
}

/// specs/baselines.md D1: where most evicted tokens fail the gate, kvpress's quantile is NaN and
/// nothing merges; ours merges what passes the gate.
TEST(Golden, KvpressMergesNothingWhereItsQuantileIsNaN) {
  const Json file = golden("kvpress_methods.json");
  int differ = 0;
  for (const Json& one : file["cases"]) {
    if (!one.contains("note")) {
      continue;
    }
    FakeRun run = run_of(one);
    const Decision ours = decided(run, one["method"], one["keep"]);
    const Decision plain = decided(run, "knorm", one["keep"]);
    EXPECT_LT(worst_row(run, plain, one["values"], false), 1e-6);  // the reference: plain eviction
    EXPECT_FALSE(ours.layers[0].edges.empty());
    for (const LayerDecision& layer : ours.layers) {
      differ += static_cast<int>(layer.edges.size());
    }
  }
  EXPECT_GT(differ, 2);
}

TEST(Golden, DiversityPicksInTheReferencesOrder) {
  const Json file = golden("diversity_float64.json");
  int compared = 0;
  int whole = 0;
  for (const Json& one : file["cases"]) {
    const std::string method = one["method"];
    SCOPED_TRACE(method);
    FakeRun run = run_of(one);
    const Decision decision = decided(run, method, one["keep"]);
    for (const LayerDecision& layer : decision.layers) {
      for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
        const Json& head =
            one["orders"][static_cast<std::size_t>(layer.layer)][static_cast<std::size_t>(kv_head)];
        const std::vector<int> order = head["order"];
        const auto sure = head["sure"].get<std::size_t>();
        std::set<int> kept;
        for (int token = 0; token < layer.tokens; ++token) {
          if (layer.removed_at[layer.cell(kv_head, token)] == alive &&
              layer.reason[layer.cell(kv_head, token)] == Reason::score) {
            kept.insert(token);
          }
        }
        EXPECT_EQ(kept.size(), order.size());
        for (std::size_t pick = 0; pick < sure; ++pick) {
          EXPECT_TRUE(kept.count(order[pick]) > 0) << "pick " << pick << ": " << order[pick];
          ++compared;
        }
        if (sure == order.size()) {
          ++whole;
          EXPECT_EQ(kept, std::set<int>(order.begin(), order.end()));
        }
      }
    }
  }
  EXPECT_GT(compared, 1500);
  EXPECT_GT(whole, 60);
}

}  // namespace
}  // namespace kvscope::testing
