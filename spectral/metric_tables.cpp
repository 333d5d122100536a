#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "tables.h"

namespace kvscope::spectral {

SpectrumTable missing_table(std::vector<int> shape, std::vector<std::string> axes,
                            std::string units, std::string long_name, std::string formula) {
  SpectrumTable table;
  const std::size_t count = std::accumulate(
      shape.begin(), shape.end(), std::size_t{1},
      [](std::size_t product, int size) { return product * static_cast<std::size_t>(size); });
  table.values.assign(count, std::numeric_limits<double>::quiet_NaN());
  table.shape = std::move(shape);
  table.axes = std::move(axes);
  table.units = std::move(units);
  table.long_name = std::move(long_name);
  table.formula = std::move(formula);
  return table;
}

void copy_row(const std::vector<double>& values, SpectrumTable& table, std::size_t row,
              std::size_t width) {
  const std::size_t count = std::min(values.size(), width);
  std::copy_n(values.begin(), count,
              table.values.begin() + static_cast<std::ptrdiff_t>(row * width));
}

const SpectrumMetrics& NullCache::get(int n, int larger) {
  const auto key = std::pair(n, larger);
  const auto found = nulls_.find(key);
  return found != nulls_.end() ? found->second
                               : nulls_.emplace(key, gaussian_null(n, larger)).first->second;
}

MetricTables::MetricTables(Spectrum& spectrum, std::string prefix, std::vector<int> shape,
                           std::vector<std::string> axes, MetricSet set)
    : spectrum_(spectrum),
      prefix_(std::move(prefix)),
      shape_(std::move(shape)),
      axes_(std::move(axes)),
      set_(set) {}

std::vector<double>& MetricTables::table(const std::string& name, bool by_energy, std::string units,
                                         std::string long_name, std::string formula) {
  SpectrumTable& found = spectrum_.tables[prefix_ + name];
  if (found.shape.empty()) {
    std::vector<int> shape = shape_;
    std::vector<std::string> axes = axes_;
    if (by_energy) {
      shape.push_back(static_cast<int>(energy_levels.size()));
      axes.emplace_back("energy");
    }
    found = missing_table(shape, axes, std::move(units), std::move(long_name), std::move(formula));
  }
  return found.values;
}

void MetricTables::write(std::size_t place, const SpectrumMetrics& metrics,
                         const SpectrumMetrics& null, double modes) {
  const int count = set_ == MetricSet::with_fits ? metric_count : core_metric_count;
  for (int index = 0; index < count; ++index) {
    const auto metric = static_cast<Metric>(index);
    const MetricInfo& info = metric_info(metric);
    const std::string name = info.name;
    table(name, false, info.units, info.long_name, info.formula)[place] = metrics[metric];
    if (info.is_rank) {
      table(name + "_n", false, "1", fmt::format("{}, share of the modes", info.long_name),
            fmt::format("{} / n", name))[place] = metrics[metric] / modes;
    }
    if (info.has_null) {
      table(name + "_null", false, info.units,
            fmt::format("{} of a Gaussian matrix of this shape", info.long_name),
            "specs/spectral.md 3.3")[place] = null[metric];
      table(name + "_rel", false, "1", fmt::format("{} relative to the null", info.long_name),
            fmt::format("{0} / {0}_null", name))[place] = metrics[metric] / null[metric];
    }
  }
  for (std::size_t level = 0; level < energy_levels.size(); ++level) {
    const std::size_t cell = place * energy_levels.size() + level;
    table("energy_rank", true, "1", "modes that hold 50, 90, 95, 99 % of the energy",
          "least k with sum_{i<=k} p_i >= tau")[cell] = metrics.energy_rank[level];
    table("energy_rank_null", true, "1", "energy ranks of a Gaussian matrix of this shape",
          "Marchenko-Pastur quantiles")[cell] = null.energy_rank[level];
    table("energy_rank_rel", true, "1", "energy ranks relative to the null",
          "energy_rank / energy_rank_null")[cell] =
        metrics.energy_rank[level] / null.energy_rank[level];
  }
}

}  // namespace kvscope::spectral
