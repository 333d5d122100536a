#pragma once

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "fake_model.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope::made {

inline constexpr int layers = 2;
inline constexpr int query_heads = 4;
inline constexpr int kv_heads = 2;
inline constexpr int dim = 8;
inline constexpr int hidden = 32;
inline constexpr int tokens = 60;
inline constexpr int first_query = 10;

inline FakeModel made_model() {
  FakeModel model(layers, query_heads, kv_heads, dim, hidden);
  model.fill(2);
  return model;
}

/// Projections of smooth inputs, rotated by hand: what a run would have captured.
class MadeCapture {
 public:
  explicit MadeCapture(const FakeModel& model, const std::string& hash, bool with_tensors = true) {
    path_ =
        (std::filesystem::temp_directory_path() /
         (std::string("kvscope_") +
          ::testing::UnitTest::GetInstance()->current_test_info()->name() + hash + ".capture.h5"))
            .string();
    CaptureIndex index;
    index.model_name = "fake";
    index.model_hash = hash;
    index.capture_hash = "00112233aabbccdd";
    index.shape = model.config().shape;
    index.profile = with_tensors ? Profile::qkv : Profile::window;
    index.layers = {0, 1};
    index.windows = {8};
    index.tokens = index.prompt_tokens = index.context_tokens = tokens;
    index.first_query = first_query;
    TokenTable table;
    table.prompt_tokens = table.context_tokens = tokens;
    for (int t = 0; t < tokens; ++t) {
      table.append(t, t, Segment::context, "x");
    }
    std::vector<DatasetSpec> specs;
    const auto add = [&](int layer, const char* name, std::vector<std::int64_t> shape) {
      DatasetSpec spec;
      spec.path = "layers/00" + std::to_string(layer) + "/" + name;
      spec.type = ElementType::f4;
      spec.shape = std::move(shape);
      specs.push_back(spec);
    };
    for (int layer = 0; layer < layers && with_tensors; ++layer) {
      for (const char* name : {"keys", "keys_pre_rope", "values"}) {
        add(layer, name, {kv_heads, tokens, dim});
      }
      add(layer, "queries", {query_heads, tokens - first_query, dim});
    }
    CaptureWriter::Options options;
    options.force = true;
    CaptureWriter writer(path_, index, table, specs, options);
    for (int layer = 0; layer < layers && with_tensors; ++layer) {
      const std::vector<double> inputs = smooth_inputs(static_cast<std::uint64_t>(layer) + 5);
      const auto put = [&](const char* name, const std::vector<float>& rows, int heads, int count) {
        writer.write("layers/00" + std::to_string(layer) + "/" + name, {0, 0, 0},
                     {heads, count, dim}, std::span<const float>(rows));
      };
      const auto keys = project(model, Weight::wk, layer, kv_heads, inputs, 0);
      put("keys_pre_rope", keys, kv_heads, tokens);
      put("keys", rotate(model, keys, kv_heads, 0), kv_heads, tokens);
      put("values", project(model, Weight::wv, layer, kv_heads, inputs, 0), kv_heads, tokens);
      queries[static_cast<std::size_t>(layer)] =
          project(model, Weight::wq, layer, query_heads, inputs, first_query);
      put("queries",
          rotate(model, queries[static_cast<std::size_t>(layer)], query_heads, first_query),
          query_heads, tokens - first_query);
      keys_before[static_cast<std::size_t>(layer)] = keys;
    }
    writer.finish(0);
  }
  ~MadeCapture() { std::filesystem::remove(path_); }
  MadeCapture(const MadeCapture&) = delete;
  MadeCapture& operator=(const MadeCapture&) = delete;

  CaptureReader open() const { return CaptureReader(path_); }
  std::array<std::vector<float>, layers> keys_before;
  std::array<std::vector<float>, layers> queries;

 private:
  static std::vector<double> smooth_inputs(std::uint64_t seed) {
    Gauss gauss(seed);
    std::vector<double> inputs(tokens * hidden);
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < hidden; ++i) {
        const auto at = static_cast<std::size_t>(t * hidden + i);
        inputs[at] = (t == 0 ? 0 : 0.7 * inputs[at - hidden]) + gauss() + 0.2;
      }
    }
    return inputs;
  }
  static std::vector<float> project(const FakeModel& model, Weight weight, int layer, int heads,
                                    const std::vector<double>& inputs, int first) {
    std::vector<float> w(static_cast<std::size_t>(heads * dim * hidden));
    model.read(weight, layer, std::span<float>(w), 1);
    std::vector<float> rows;
    for (int head = 0; head < heads; ++head) {
      for (int t = first; t < tokens; ++t) {
        for (int i = 0; i < dim; ++i) {
          double sum = 0;
          for (int k = 0; k < hidden; ++k) {
            sum += static_cast<double>(w[static_cast<std::size_t>((head * dim + i) * hidden + k)]) *
                   inputs[static_cast<std::size_t>(t * hidden + k)];
          }
          rows.push_back(static_cast<float>(sum));
        }
      }
    }
    return rows;
  }
  static std::vector<float> rotate(const FakeModel& model, std::vector<float> rows, int heads,
                                   int first) {
    const std::vector<double>& frequency = model.config().shape.rope.inverse_frequency;
    for (int head = 0; head < heads; ++head) {
      for (int t = first; t < tokens; ++t) {
        float* y = rows.data() + (head * (tokens - first) + t - first) * dim;
        for (std::size_t j = 0; j < frequency.size(); ++j) {
          const double a = y[j];
          const double b = y[j + frequency.size()];
          const double angle = frequency[j] * t;
          y[j] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
          y[j + frequency.size()] = static_cast<float>(a * std::sin(angle) + b * std::cos(angle));
        }
      }
    }
    return rows;
  }
  std::string path_;
};

}  // namespace kvscope::made
