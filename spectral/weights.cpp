#include "weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "noise_floor.h"

namespace kvscope::spectral {
namespace {

constexpr std::int64_t largest_side = 32767;  // 32-bit LAPACK

void fail(ProjectionWeights& weights, SpectrumStatus status, std::string message) {
  weights.status = status;
  weights.message = std::move(message);
  weights.values.clear();
}

struct Companions {
  std::optional<Weight> bias;
  std::optional<Weight> gain_behind;
  bool normed_input = true;
};

Companions companions_of(Weight projection) {
  switch (projection) {
    case Weight::wq:
      return {Weight::bq, Weight::q_norm, true};
    case Weight::wk:
      return {Weight::bk, Weight::k_norm, true};
    case Weight::wv:
      return {Weight::bv, {}, true};
    default:
      return {Weight::bo, {}, false};
  }
}

/// A vector of the layer, widened; empty if the model has none.
std::vector<double> read_vector(const ModelFile& model, std::optional<Weight> weight, int layer) {
  if (!weight || !model.has(*weight, layer)) {
    return {};
  }
  std::vector<float> values(static_cast<std::size_t>(model.weight_shape(*weight, layer).first));
  model.read(*weight, layer, std::span<float>(values), 1);
  return {values.begin(), values.end()};
}

/// The first entry that is no number; the message says how many there are.
bool check_finite(ProjectionWeights& weights) {
  std::int64_t bad = 0;
  std::size_t first = 0;
  for (std::size_t i = 0; i < weights.values.size(); ++i) {
    if (!std::isfinite(weights.values[i]) && bad++ == 0) {
      first = i;
    }
  }
  for (const std::vector<double>* vector :
       {&weights.bias, &weights.row_factor, &weights.column_factor}) {
    if (bad == 0 && !std::all_of(vector->begin(), vector->end(),
                                 [](double value) { return std::isfinite(value); })) {
      fail(weights, SpectrumStatus::nonfinite, "its bias or norm gain is NaN or infinite");
      return false;
    }
  }
  if (bad > 0) {
    const auto width = static_cast<std::size_t>(weights.columns);
    fail(weights, SpectrumStatus::nonfinite,
         fmt::format("{} entries are NaN or infinite, first at row {}, column {}", bad,
                     first / width, first % width));
  }
  return bad == 0;
}

/// A LayerNorm takes the mean out before its gain g: W diag(g) (I - 11^T / d), in float32.
void centre_rows(ProjectionWeights& weights) {
  const auto width = static_cast<std::size_t>(weights.columns);
  for (std::size_t first = 0; first < weights.values.size(); first += width) {
    double mean = 0;
    for (std::size_t i = 0; i < width; ++i) {
      mean += static_cast<double>(weights.values[first + i]) * weights.column_factor[i] /
              static_cast<double>(width);
    }
    for (std::size_t i = 0; i < width; ++i) {
      float& value = weights.values[first + i];
      value = static_cast<float>(static_cast<double>(value) * weights.column_factor[i] - mean);
    }
  }
  weights.column_factor.clear();
}

void add_factors(const ModelFile& model, int layer, const ProjectionLayout& layout,
                 const SpectralOptions& options, ProjectionWeights& weights) {
  const Companions companions = companions_of(layout.weight);
  weights.bias =
      options.with_bias ? read_vector(model, companions.bias, layer) : std::vector<double>();
  if (!options.gain_folded) {
    return;
  }
  if (companions.normed_input) {
    weights.column_factor = read_vector(model, Weight::attention_norm, layer);
    if (model.config().norm == NormKind::layer && !weights.column_factor.empty()) {
      centre_rows(weights);
    }
  }
  const std::vector<double> gain = read_vector(model, companions.gain_behind, layer);
  if (!gain.empty() && weights.rows % static_cast<int>(gain.size()) == 0) {
    for (int row = 0; row < weights.rows; ++row) {
      weights.row_factor.push_back(gain[static_cast<std::size_t>(row) % gain.size()]);
    }
  }
}

}  // namespace

bool ProjectionWeights::sliced(const ProjectionLayout& layout) const {
  return (layout.heads_are_rows ? rows : columns) == layout.heads * layout.head_dim;
}

WeightView ProjectionWeights::view() const {
  return {values.data(),
          rows,
          columns,
          columns,
          exponent,
          row_factor.empty() ? nullptr : row_factor.data(),
          column_factor.empty() ? nullptr : column_factor.data()};
}

WeightView ProjectionWeights::head(const ProjectionLayout& layout, int index) const {
  const int first = index * layout.head_dim;
  return layout.heads_are_rows ? view().row_block(first, layout.head_dim)
                               : view().column_block(first, layout.head_dim);
}

ProjectionWeights load_weights(const ModelFile& model, int layer, const ProjectionLayout& layout,
                               const SpectralOptions& options) {
  ProjectionWeights weights;
  if (!model.has(layout.weight, layer)) {
    fail(weights, SpectrumStatus::missing, "the layer has no such projection");
    return weights;
  }
  const auto [rows, columns] = model.weight_shape(layout.weight, layer);
  if (rows < 1 || columns < 1 || rows > largest_side || columns > largest_side) {
    fail(weights, SpectrumStatus::bad_shape,
         fmt::format("{} x {} is not within 1 to {}", rows, columns, largest_side));
    return weights;
  }
  weights.rows = static_cast<int>(rows);
  weights.columns = static_cast<int>(columns);
  weights.values.resize(cells(weights.rows, weights.columns));
  try {
    model.read(layout.weight, layer, std::span<float>(weights.values), 1);
    add_factors(model, layer, layout, options, weights);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) {
      throw;
    }
    fail(weights, SpectrumStatus::unsupported_dtype, error.message());
    return weights;
  }
  if (!check_finite(weights)) {
    return weights;
  }
  float largest = 0;
  for (const float value : weights.values) {
    largest = std::max(largest, std::abs(value));
  }
  std::frexp(largest, &weights.exponent);
  weights.status = largest == 0 ? SpectrumStatus::zero : SpectrumStatus::ok;
  weights.message = largest == 0 ? "every entry is 0" : "";
  weights.storage_error =
      storage_error(weights.values, weights.columns, model.weight_dtype(layout.weight, layer));
  return weights;
}

}  // namespace kvscope::spectral
