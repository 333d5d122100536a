/// TriAttention against tests/golden/triattention_golden.py: float64, written out, no shared code.
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kvscope/methods/pieces.h"
#include "registry/entry.h"
#include "scorers/triattention.h"
#include "selectors/selectors.h"

namespace kvscope::testing {
namespace {

using Json = nlohmann::json;

at::Tensor tensor_of(const Json& numbers, at::IntArrayRef sizes) {
  return at::tensor(numbers.get<std::vector<double>>(), at::kDouble).to(at::kFloat).view(sizes);
}

struct Case {
  explicit Case(const Json& json)
      : json_(json),
        layers(json["layers"]),
        heads(json["query_heads"]),
        kv_heads(json["kv_heads"]),
        positions(json["position"].get<std::vector<std::int64_t>>()),
        protection(static_cast<int>(positions.size())) {
    rope.inverse_frequency = json["omega"].get<std::vector<double>>();
    rope.dims = 2 * static_cast<int>(rope.inverse_frequency.size());
    rope.attention_factor = json["sigma"];
    const auto slots = static_cast<std::int64_t>(positions.size());
    const std::int64_t bands = rope.dims / 2;
    real = tensor_of(json["real"], {layers, heads, bands});
    imaginary = tensor_of(json["imag"], {layers, heads, bands});
    absolute = tensor_of(json["abs"], {layers, heads, bands});
    keys = tensor_of(json["keys"], {layers, kv_heads, slots, rope.dims});
    for (const int slot : json["protected"]) {
      protection.add(slot, slot + 1, Reason::rule);
    }
    for (int slot = 0; slot < protection.tokens(); ++slot) {
      if (!protection.covers(slot)) {
        candidates.push_back(slot);
      }
    }
  }

  std::vector<detail::TriTerms> terms(bool maximum, bool resultant) const {
    std::vector<detail::TriTerms> all;
    for (int layer = 0; layer < layers; ++layer) {
      all.push_back(
          detail::triattention_terms(keys[layer], {real[layer], imaginary[layer], absolute[layer]},
                                     rope, {json_["offsets"], maximum}, json_["next"], resultant));
    }
    return all;
  }

  const Json& json_;
  int layers, heads, kv_heads;
  std::vector<std::int64_t> positions;
  Protection protection;
  RopeParameters rope;
  at::Tensor real, imaginary, absolute, keys;
  std::vector<int> candidates;
};

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values) {
    result = std::max(result, std::abs(value));
  }
  return result;
}

/// Rows of planes over slots, at the candidates, against [planes, rows, candidates].
void expect_near(const std::vector<at::Tensor>& planes, const Case& given, const Json& expected,
                 double tolerance) {
  const auto numbers = expected.get<std::vector<double>>();
  const double allowed = tolerance * largest(numbers);
  std::size_t next = 0;
  for (const at::Tensor& plane : planes) {
    for (std::int64_t row = 0; row < plane.size(0); ++row) {
      for (const int slot : given.candidates) {
        ASSERT_NEAR(plane[row][slot].item<double>(), numbers[next++], allowed);
      }
    }
  }
  EXPECT_EQ(next, numbers.size());
}

detail::TriSettling settling_of(const Json& settled) {
  detail::TriSettling settling;
  const std::string mode = settled["mode"];
  settling.mode = mode == "per_head"            ? detail::TriSettling::Mode::per_head
                  : mode == "per_layer_perhead" ? detail::TriSettling::Mode::per_layer_perhead
                                                : detail::TriSettling::Mode::union_;
  settling.group_mean = settled["group"] == "mean";
  settling.sample = settled["deviation"] == "sample";
  return settling;
}

/// The cut's scores differ by more than the tolerance, so that the kept set is certain.
void expect_kept(const at::Tensor& scores, const Case& given, const Json& kept, int budget) {
  std::vector<float> row(static_cast<std::size_t>(scores.numel()));
  for (std::size_t slot = 0; slot < row.size(); ++slot) {
    row[slot] = scores[static_cast<std::int64_t>(slot)].item<float>();
  }
  std::vector<int> ours =
      detail::make_top_k()->select({row, given.protection}, budget - given.protection.count);
  std::sort(ours.begin(), ours.end());
  EXPECT_EQ(ours, kept.get<std::vector<int>>());
}

void check_answer(const Case& given, const Json& answer, const Json& golden, int budget) {
  const auto terms = given.terms(answer["over_offsets"] == "max", answer["resultant"]);
  std::vector<at::Tensor> trigonometric;
  std::vector<at::Tensor> norm;
  for (const detail::TriTerms& layer : terms) {
    trigonometric.push_back(layer.trigonometric);
    norm.push_back(layer.norm);
  }
  expect_near(trigonometric, given, answer["trig"], golden["tolerance"]);
  expect_near(norm, given, answer["norm"], golden["tolerance"]);
  for (const Json& settled : answer["settled"]) {
    SCOPED_TRACE(settled["mode"].dump() + settled["group"].dump() + settled["deviation"].dump());
    const auto scores = detail::settle_triattention(terms, settling_of(settled),
                                                    {given.kv_heads, given.protection, {}, false});
    std::vector<at::Tensor> planes;
    for (const LayerScores& layer : scores) {
      planes.push_back(layer.scores);
    }
    expect_near(planes, given, settled["scores"], 5.0 * golden["tolerance"].get<double>());
    for (int layer = 0; layer < given.layers; ++layer) {
      for (int kv_head = 0; kv_head < given.kv_heads; ++kv_head) {
        expect_kept(
            scores[static_cast<std::size_t>(layer)].scores[kv_head], given,
            settled["kept"][static_cast<std::size_t>(layer)][static_cast<std::size_t>(kv_head)],
            budget);
      }
    }
  }
}

TEST(TriAttentionGolden, ScoresAndKeepSets) {
  std::ifstream file(std::string(KVSCOPE_SOURCE_DIR) + "/tests/golden/triattention_golden.json");
  const Json golden = Json::parse(file);
  ASSERT_EQ(golden["cases"].size(), 2u);
  for (const Json& json : golden["cases"]) {
    SCOPED_TRACE(json["name"].dump());
    const Case given(json);
    for (const Json& answer : json["answers"]) {
      SCOPED_TRACE(answer["over_offsets"].dump());
      check_answer(given, answer, golden, json["budget"]);
    }
  }
}

}  // namespace
}  // namespace kvscope::testing
