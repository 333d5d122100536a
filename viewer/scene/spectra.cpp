#include "kvscope/scene/spectra.h"

#include <cmath>

namespace kvscope {
namespace {

/// Curve of column `column` of a [layers] or [layers, columns] table over the true layers.
Curve column_curve(const Spectrum& spectrum, const SpectrumTable& table, std::size_t column,
                   const std::string& label) {
  Curve curve{label, {}, {}};
  const std::size_t columns =
      table.shape.size() > 1 ? static_cast<std::size_t>(table.shape[1]) : std::size_t{1};
  for (std::size_t row = 0; row < spectrum.layers.size(); ++row) {
    const std::size_t at = row * columns + column;
    if (at < table.values.size() && std::isfinite(table.values[at])) {
      curve.x.push_back(spectrum.layers[row]);
      curve.y.push_back(table.values[at]);
    }
  }
  return curve;
}

}  // namespace

std::vector<Curve> eigen_curves(const Spectrum& spectrum, int row) {
  std::vector<Curve> curves;
  for (const std::string& projection : spectrum.projections) {
    const SpectrumTable* table = spectrum.find("spectrum/layer/" + projection + "/eigenvalues");
    if (table == nullptr || table->shape.size() != 2 || row >= table->shape[0]) {
      continue;
    }
    const auto columns = static_cast<std::size_t>(table->shape[1]);
    const double* values = table->values.data() + static_cast<std::size_t>(row) * columns;
    double sum = 0;
    for (std::size_t rank = 0; rank < columns; ++rank) {
      sum += std::isfinite(values[rank]) ? values[rank] : 0;
    }
    Curve curve{"W_" + std::string(1, static_cast<char>(std::toupper(projection[0]))), {}, {}};
    for (std::size_t rank = 0; rank < columns && sum > 0; ++rank) {
      if (std::isfinite(values[rank]) && values[rank] > 0) {
        curve.x.push_back(static_cast<double>(rank + 1));
        curve.y.push_back(values[rank] / sum);
      }
    }
    curves.push_back(std::move(curve));
  }
  return curves;
}

std::vector<Curve> layer_curves(const Spectrum& spectrum, const std::string& metric) {
  std::vector<Curve> curves;
  const SpectrumTable* table = spectrum.find("metrics/layer/" + metric);
  for (std::size_t column = 0; table != nullptr && column < spectrum.projections.size(); ++column) {
    curves.push_back(column_curve(
        spectrum, *table, column,
        "W_" + std::string(1, static_cast<char>(std::toupper(spectrum.projections[column][0])))));
  }
  return curves;
}

std::vector<Curve> asymmetry_curves(const Spectrum& spectrum) {
  std::vector<Curve> curves;
  const std::pair<const char*, const char*> tables[] = {
      {"asymmetry/A_KV", "layer"},
      {"asymmetry/A_KV_head_q25", "heads, 25 %"},
      {"asymmetry/A_KV_head_median", "heads, median"},
      {"asymmetry/A_KV_head_q75", "heads, 75 %"}};
  for (const auto& [path, label] : tables) {
    if (const SpectrumTable* table = spectrum.find(path)) {
      curves.push_back(column_curve(spectrum, *table, 0, label));
    }
  }
  return curves;
}

HeadGrid head_grid(const Spectrum& spectrum, const std::string& projection,
                   const std::string& metric) {
  const SpectrumTable* table = spectrum.find("metrics/head/" + projection + "/" + metric);
  if (table == nullptr || table->shape.size() != 2) {
    return {};
  }
  return {table->shape[0], table->shape[1], table->values};
}

}  // namespace kvscope
