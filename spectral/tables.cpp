#include "tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kvscope/model/model_file.h"
#include "noise_floor.h"

namespace kvscope::spectral {
namespace {

/// Metrics of the fast mode: what trace, norm and largest eigenvalue give.
SpectrumMetrics metrics_of(const FastSpectrum& fast) {
  SpectrumMetrics metrics = missing_metrics();
  metrics[Metric::fro2] = fast.trace;
  metrics[Metric::sigma_max] = std::sqrt(fast.largest);
  metrics[Metric::stable_rank] = fast.trace / fast.largest;
  metrics[Metric::participation_ratio] = fast.trace / fast.square * fast.trace;
  return metrics;
}

/// Tables of all layers of one projection.
class ProjectionTables {
 public:
  ProjectionTables(const std::vector<LayerResult>& results, int p, const ModelShape& shape,
                   const SpectralOptions& options, NullCache& nulls, Spectrum& spectrum)
      : results_(results),
        p_(p),
        name_(projection_names[static_cast<std::size_t>(p)]),
        layers_(static_cast<int>(results.size())),
        layout_(layout_of(p, shape)),
        head_modes_(std::min(layout_.head_dim, shape.hidden_dim)),
        options_(options),
        nulls_(nulls),
        spectrum_(spectrum) {}

  void fill(MetricTables& layer_metrics) {
    MetricTables head_metrics(spectrum_, "metrics/head/" + name_ + "/", {layers_, layout_.heads},
                              {"layer", head_axis(p_)}, set());
    SpectrumTable& floors = spectrum_.tables["metrics/noise_floor"];
    SpectrumTable& seconds = spectrum_.tables["timing/seconds"];
    for (int row = 0; row < layers_; ++row) {
      const MatrixSpectrum& m = at(row);
      const auto place = static_cast<std::size_t>(row * projections + p_);
      floors.values[place] = noise_floor(m.storage_error, m.rows, m.columns);
      copy_row({m.seconds.begin(), m.seconds.end()}, seconds, place, 3);
      layer_metrics.write(place, options_.fast ? metrics_of(m.layer_fast) : m.layer_metrics,
                          null_of(m.rows, m.columns), std::min(m.rows, m.columns));
      const int other = layout_.heads_are_rows ? m.columns : m.rows;
      for (int head = 0; head < layout_.heads; ++head) {
        head_metrics.write(static_cast<std::size_t>(row * layout_.heads + head), of_head(m, head),
                           null_of(layout_.head_dim, other), std::min(layout_.head_dim, other));
      }
    }
    if (!options_.fast) {
      spectra();
    } else if (options_.top > 0) {
      fill_rows("spectrum/layer/" + name_ + "/top_singular_values", "weight",
                "leading singular values by randomised projection, from below",
                "Halko, Martinsson, Tropp 2011, q = 2, p = 10", &MatrixSpectrum::top);
    }
  }

 private:
  MetricSet set() const {
    return options_.fits && !options_.fast ? MetricSet::with_fits : MetricSet::core;
  }
  const MatrixSpectrum& at(int row) const {
    return results_[static_cast<std::size_t>(row)].matrices[static_cast<std::size_t>(p_)];
  }

  SpectrumMetrics null_of(int rows, int columns) {
    return rows > 0 && columns > 0 ? nulls_.get(std::min(rows, columns), std::max(rows, columns))
                                   : missing_metrics();
  }

  SpectrumMetrics of_head(const MatrixSpectrum& m, int head) const {
    const auto index = static_cast<std::size_t>(head);
    if (options_.fast) {
      return index < m.heads_fast.size() ? metrics_of(m.heads_fast[index]) : missing_metrics();
    }
    return index < m.head_metrics.size() ? m.head_metrics[index] : missing_metrics();
  }

  /// [layers, modes] from one list of each matrix.
  void fill_rows(const std::string& path, const char* units, const std::string& long_name,
                 const char* formula, std::vector<double> MatrixSpectrum::*list) {
    std::size_t width = 0;
    for (int row = 0; row < layers_; ++row) {
      width = std::max(width, (at(row).*list).size());
    }
    width = std::max<std::size_t>(width, 1);
    SpectrumTable& table = spectrum_.tables[path];
    table = missing_table({layers_, static_cast<int>(width)}, {"layer", "mode"}, units, long_name,
                          formula);
    for (int row = 0; row < layers_; ++row) {
      copy_row(at(row).*list, table, static_cast<std::size_t>(row), width);
    }
  }

  /// [layers, heads, ...] from one list of each head.
  template <typename T>
  void fill_heads(const std::string& path, std::vector<int> tail, std::vector<std::string> axes,
                  SpectrumTable table, std::vector<std::vector<T>> MatrixSpectrum::*lists) {
    std::vector<int> shape = {layers_, layout_.heads};
    shape.insert(shape.end(), tail.begin(), tail.end());
    std::vector<std::string> names = {"layer", head_axis(p_)};
    names.insert(names.end(), axes.begin(), axes.end());
    table = missing_table(shape, names, table.units, table.long_name, table.formula);
    std::size_t width = 1;
    for (const int size : tail) {
      width *= static_cast<std::size_t>(size);
    }
    for (int row = 0; row < layers_; ++row) {
      const auto& of_heads = at(row).*lists;
      for (std::size_t head = 0; head < of_heads.size(); ++head) {
        copy_row({of_heads[head].begin(), of_heads[head].end()}, table,
                 static_cast<std::size_t>(row * layout_.heads) + head, width);
      }
    }
    spectrum_.tables[path] = std::move(table);
  }

  void spectra() {
    fill_rows("spectrum/layer/" + name_ + "/eigenvalues", "weight^2",
              "eigenvalues of W W^T, W_" + name_ + " of the layer", "s_i^2, descending",
              &MatrixSpectrum::layer);
    if (std::any_of(results_.begin(), results_.end(), [this](const LayerResult& result) {
          return !result.matrices[static_cast<std::size_t>(p_)].with_bias.empty();
        })) {
      fill_rows("spectrum/layer/" + name_ + "/eigenvalues_with_bias", "weight^2",
                "eigenvalues of [W b] [W b]^T, W_" + name_ + " of the layer", "s_i^2, descending",
                &MatrixSpectrum::with_bias);
    }
    SpectrumTable about;
    about.units = "weight^2";
    about.long_name = "eigenvalues of W W^T, head slices of W_" + name_;
    about.formula = "s_i^2, descending";
    fill_heads("spectrum/head/" + name_ + "/eigenvalues", {head_modes_}, {"mode"}, about,
               &MatrixSpectrum::heads);
    about.units = "1";
    about.long_name = "block of nearly equal eigenvalues that a mode belongs to";
    about.formula = "relative gap below gap_tol, or both below the noise floor";
    fill_heads("spectrum/head/" + name_ + "/mode_block", {head_modes_}, {"mode"}, about,
               &MatrixSpectrum::blocks);
    if (options_.vectors && layout_.heads_are_rows && head_modes_ == layout_.head_dim) {
      about.long_name = "left singular vectors of the head slices of W_" + name_;
      about.formula = "W W^T u_i = lambda_i u_i";
      fill_heads("spectrum/head/" + name_ + "/left_vectors", {head_modes_, head_modes_},
                 {"mode", "channel"}, about, &MatrixSpectrum::vectors);
      transpose_vectors(spectrum_.tables["spectrum/head/" + name_ + "/left_vectors"]);
    }
  }

  /// The schema has the channel before the mode; a solver gives one vector after another.
  void transpose_vectors(SpectrumTable& table) const {
    const auto n = static_cast<std::size_t>(head_modes_);
    for (std::size_t first = 0; first < table.values.size(); first += n * n) {
      for (std::size_t a = 0; a < n; ++a) {
        for (std::size_t b = 0; b < a; ++b) {
          std::swap(table.values[first + a * n + b], table.values[first + b * n + a]);
        }
      }
    }
    std::swap(table.axes[2], table.axes[3]);
  }

  const std::vector<LayerResult>& results_;
  int p_;
  std::string name_;
  int layers_;
  ProjectionLayout layout_;
  int head_modes_;
  const SpectralOptions& options_;
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

std::string head_axis(int p) {
  return p == 0 || p == 3 ? "q_head" : "kv_head";
}

void fill_tables(const std::vector<LayerResult>& results, const ModelShape& shape,
                 const SpectralOptions& options, Spectrum& spectrum) {
  const int layers = static_cast<int>(results.size());
  for (const LayerResult& result : results) {
    for (const MatrixSpectrum& matrix : result.matrices) {
      spectrum.status.push_back(matrix.status);
      spectrum.message.push_back(matrix.message);
    }
  }
  spectrum.tables["metrics/noise_floor"] =
      missing_table({layers, projections}, {"layer", "proj"}, "weight",
                    "singular values below this are rounding of the storage type",
                    "rms error * (sqrt m + sqrt d)");
  spectrum.tables["timing/seconds"] =
      missing_table({layers, projections, 3}, {"layer", "proj", "stage"}, "s",
                    "time of the Gram matrices, the eigenvalues and the metrics", "wall clock");
  const MetricSet set = options.fits && !options.fast ? MetricSet::with_fits : MetricSet::core;
  MetricTables layer_metrics(spectrum, "metrics/layer/", {layers, projections}, {"layer", "proj"},
                             set);
  NullCache nulls;
  for (int p = 0; p < projections; ++p) {
    ProjectionTables(results, p, shape, options, nulls, spectrum).fill(layer_metrics);
  }
  if (options.fast) {
    SpectrumTable& bound = spectrum.tables["metrics/layer/sigma_max_bound"];
    bound = missing_table({layers, projections}, {"layer", "proj"}, "weight^2",
                          "some eigenvalue lies this near to sigma_max^2", "Lanczos residual");
    for (int row = 0; row < layers; ++row) {
      for (int p = 0; p < projections; ++p) {
        bound.values[static_cast<std::size_t>(row * projections + p)] =
            results[static_cast<std::size_t>(row)]
                .matrices[static_cast<std::size_t>(p)]
                .layer_fast.bound;
      }
    }
  }
}

}  // namespace kvscope::spectral
