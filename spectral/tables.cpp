#include "tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "kvscope/model/model_file.h"
#include "metrics.h"
#include "noise_floor.h"

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// Metrics of one place with its null, ready to be written.
struct Measured {
  SpectrumMetrics metrics = missing_metrics();
  SpectrumMetrics null = missing_metrics();
  double modes = nan;
};

/// Nulls repeat over layers and heads; each shape is integrated once.
class NullCache {
 public:
  const SpectrumMetrics& get(int n, int larger) {
    const auto key = std::pair(n, larger);
    const auto found = nulls_.find(key);
    return found != nulls_.end() ? found->second
                                 : nulls_.emplace(key, gaussian_null(n, larger)).first->second;
  }

 private:
  std::map<std::pair<int, int>, SpectrumMetrics> nulls_;
};

Measured measure(const std::vector<double>& eigenvalues, double floor, int rows, int columns,
                 NullCache& nulls) {
  Measured measured;
  if (eigenvalues.empty() || std::isnan(eigenvalues.front())) {
    return measured;
  }
  measured.metrics = metrics_of(eigenvalues, floor);
  measured.null = nulls.get(std::min(rows, columns), std::max(rows, columns));
  measured.modes = static_cast<double>(eigenvalues.size());
  return measured;
}

/// The tables of one group of places: `/metrics/layer` or `/metrics/head/<proj>`.
class MetricTables {
 public:
  MetricTables(Spectrum& spectrum, std::string prefix, std::vector<int> shape,
               std::vector<std::string> axes)
      : spectrum_(spectrum),
        prefix_(std::move(prefix)),
        shape_(std::move(shape)),
        axes_(std::move(axes)) {}

  void write(std::size_t place, const Measured& measured) {
    for (int index = 0; index < metric_count; ++index) {
      const auto metric = static_cast<Metric>(index);
      const MetricInfo& info = metric_info(metric);
      const double value = measured.metrics[metric];
      const double null = measured.null[metric];
      const std::string name = info.name;
      at(name, info.units, info.long_name, info.formula)[place] = value;
      if (info.is_rank) {
        at(name + "_n", "1", fmt::format("{}, share of the modes", info.long_name),
           fmt::format("{} / n", name))[place] = value / measured.modes;
      }
      if (info.has_null) {
        at(name + "_null", info.units,
           fmt::format("{} of a Gaussian matrix of this shape", info.long_name),
           "specs/spectral.md 3.3")[place] = null;
        at(name + "_rel", "1", fmt::format("{} relative to the null", info.long_name),
           fmt::format("{0} / {0}_null", name))[place] = value / null;
      }
    }
    for (std::size_t level = 0; level < energy_levels.size(); ++level) {
      const std::size_t cell = place * energy_levels.size() + level;
      energy("energy_rank", "modes that hold 50, 90, 95, 99 % of the energy",
             "least k with sum_{i<=k} p_i >= tau")[cell] = measured.metrics.energy_rank[level];
      energy("energy_rank_null", "energy ranks of a Gaussian matrix of this shape",
             "Marchenko-Pastur quantiles")[cell] = measured.null.energy_rank[level];
      energy("energy_rank_rel", "energy ranks relative to the null",
             "energy_rank / energy_rank_null")[cell] =
          measured.metrics.energy_rank[level] / measured.null.energy_rank[level];
    }
  }

 private:
  std::vector<double>& table(const std::string& name, const std::vector<int>& shape,
                             const std::vector<std::string>& axes, std::string units,
                             std::string long_name, std::string formula) {
    SpectrumTable& found = spectrum_.tables[prefix_ + name];
    if (found.shape.empty()) {
      found =
          missing_table(shape, axes, std::move(units), std::move(long_name), std::move(formula));
    }
    return found.values;
  }

  std::vector<double>& at(const std::string& name, std::string units, std::string long_name,
                          std::string formula) {
    return table(name, shape_, axes_, std::move(units), std::move(long_name), std::move(formula));
  }

  std::vector<double>& energy(const std::string& name, std::string long_name, std::string formula) {
    std::vector<int> shape = shape_;
    std::vector<std::string> axes = axes_;
    shape.push_back(static_cast<int>(energy_levels.size()));
    axes.emplace_back("energy");
    return table(name, shape, axes, "1", std::move(long_name), std::move(formula));
  }

  Spectrum& spectrum_;
  std::string prefix_;
  std::vector<int> shape_;
  std::vector<std::string> axes_;
};

/// Tables of all layers of one projection.
class ProjectionTables {
 public:
  ProjectionTables(const std::vector<MatrixSpectrum>& matrices, int p, const ModelShape& shape,
                   NullCache& nulls, Spectrum& spectrum)
      : matrices_(matrices),
        p_(p),
        layers_(static_cast<int>(spectrum.layers.size())),
        layout_(layout_of(p, shape)),
        head_modes_(std::min(layout_.head_dim, shape.hidden_dim)),
        nulls_(nulls),
        spectrum_(spectrum) {}

  void fill(MetricTables& layer_metrics) {
    const std::string name = projection_names[static_cast<std::size_t>(p_)];
    SpectrumTable& values = spectrum_.tables["spectrum/layer/" + name + "/eigenvalues"];
    values =
        missing_table({layers_, modes()}, {"layer", "mode"}, "weight^2",
                      "eigenvalues of W W^T, W_" + name + " of the layer", "s_i^2, descending");
    SpectrumTable& head_values = spectrum_.tables["spectrum/head/" + name + "/eigenvalues"];
    const std::string head_axis =
        layout_.heads == spectrum_.query_heads && (name == "q" || name == "o") ? "q_head"
                                                                               : "kv_head";
    head_values = missing_table({layers_, layout_.heads, head_modes_}, {"layer", head_axis, "mode"},
                                "weight^2", "eigenvalues of W W^T, head slices of W_" + name,
                                "s_i^2, descending");
    MetricTables head_metrics(spectrum_, "metrics/head/" + name + "/", {layers_, layout_.heads},
                              {"layer", head_axis});
    SpectrumTable& floors = spectrum_.tables["metrics/noise_floor"];
    for (int row = 0; row < layers_; ++row) {
      const MatrixSpectrum& matrix = at(row);
      const auto place = static_cast<std::size_t>(row * projections + p_);
      const double floor = noise_floor(matrix.storage_error, matrix.rows, matrix.columns);
      floors.values[place] = floor;
      copy(matrix.layer, values.values, static_cast<std::size_t>(row), modes());
      layer_metrics.write(place, measure(matrix.layer, floor, matrix.rows, matrix.columns, nulls_));
      for (int head = 0; head < layout_.heads; ++head) {
        fill_head(matrix, static_cast<std::size_t>(row * layout_.heads + head), head,
                  head_values.values, head_metrics);
      }
    }
  }

 private:
  const MatrixSpectrum& at(int row) const {
    return matrices_[static_cast<std::size_t>(row * projections + p_)];
  }

  int modes() const {
    int most = 1;
    for (int row = 0; row < layers_; ++row) {
      most = std::max(most, static_cast<int>(at(row).layer.size()));
    }
    return most;
  }

  void fill_head(const MatrixSpectrum& matrix, std::size_t place, int head,
                 std::vector<double>& values, MetricTables& metrics) {
    const std::vector<double> none;
    const std::vector<double>& eigenvalues =
        matrix.heads.empty() ? none : matrix.heads[static_cast<std::size_t>(head)];
    const int other = layout_.heads_are_rows ? matrix.columns : matrix.rows;
    const double floor = noise_floor(matrix.storage_error, layout_.head_dim, other);
    copy(eigenvalues, values, place, head_modes_);
    metrics.write(place, measure(eigenvalues, floor, layout_.head_dim, other, nulls_));
  }

  static void copy(const std::vector<double>& from, std::vector<double>& to, std::size_t row,
                   int width) {
    const std::size_t count = std::min(from.size(), static_cast<std::size_t>(width));
    std::copy_n(from.begin(), count,
                to.begin() + static_cast<std::ptrdiff_t>(row * static_cast<std::size_t>(width)));
  }

  const std::vector<MatrixSpectrum>& matrices_;
  int p_;
  int layers_;
  ProjectionLayout layout_;
  int head_modes_;
  NullCache& nulls_;
  Spectrum& spectrum_;
};

}  // namespace

ProjectionLayout layout_of(int p, const ModelShape& shape) {
  switch (p) {
    case 0:
      return {Weight::wq, shape.query_heads, shape.head_dim, true};
    case 1:
      return {Weight::wk, shape.kv_heads, shape.head_dim, true};
    case 2:
      return {Weight::wv, shape.kv_heads, shape.head_dim, true};
    default:
      return {Weight::wo, shape.query_heads, shape.head_dim, false};
  }
}

SpectrumTable missing_table(std::vector<int> shape, std::vector<std::string> axes,
                            std::string units, std::string long_name, std::string formula) {
  SpectrumTable table;
  const std::size_t cells = std::accumulate(
      shape.begin(), shape.end(), std::size_t{1},
      [](std::size_t product, int size) { return product * static_cast<std::size_t>(size); });
  table.values.assign(cells, nan);
  table.shape = std::move(shape);
  table.axes = std::move(axes);
  table.units = std::move(units);
  table.long_name = std::move(long_name);
  table.formula = std::move(formula);
  return table;
}

void fill_tables(const std::vector<MatrixSpectrum>& matrices, const ModelShape& shape,
                 Spectrum& spectrum) {
  const int layers = static_cast<int>(spectrum.layers.size());
  for (const MatrixSpectrum& matrix : matrices) {
    spectrum.status.push_back(matrix.status);
    spectrum.message.push_back(matrix.message);
  }
  spectrum.tables["metrics/noise_floor"] =
      missing_table({layers, projections}, {"layer", "proj"}, "weight",
                    "singular values below this are rounding of the storage type",
                    "rms error * (sqrt m + sqrt d)");
  MetricTables layer_metrics(spectrum, "metrics/layer/", {layers, projections}, {"layer", "proj"});
  NullCache nulls;
  for (int p = 0; p < projections; ++p) {
    ProjectionTables(matrices, p, shape, nulls, spectrum).fill(layer_metrics);
  }
}

}  // namespace kvscope::spectral
