#include "homogeneity_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "kvscope/storage/capture_reader.h"
#include "tables.h"

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
using Phase = std::array<HeadHomogeneity, 3> LayerHomogeneity::*;

struct Scalar {
  const char* name;
  const char* long_name;
  const char* formula;
  double (*get)(const TokenStatistics&);
};
constexpr Scalar scalars[] = {
    {"cos_adj_mean", "mean cosine of adjacent tokens", "mean_t cos(y_t, y_{t+1})",
     [](const TokenStatistics& s) { return s.cos_mean; }},
    {"cos_adj_std", "standard deviation of it over pairs", "n - 1 in the denominator",
     [](const TokenStatistics& s) { return s.cos_std; }},
    {"cos_shuffled", "mean cosine of random pairs of the same sequence", "seeded pairs",
     [](const TokenStatistics& s) { return s.cos_shuffled; }},
    {"adj_excess", "adjacent over shuffled cosine", "cos_adj_mean - cos_shuffled",
     [](const TokenStatistics& s) { return s.cos_mean - s.cos_shuffled; }},
    {"beta", "share of the common direction", "|mu|^2 / (|mu|^2 + tr C)",
     [](const TokenStatistics& s) { return s.beta; }},
    {"rhobar", "energy-weighted persistence of the centred part", "tr Gamma / tr C",
     [](const TokenStatistics& s) { return s.rhobar; }},
    {"pred_T2", "first-order prediction of the adjacent cosine", "beta + (1 - beta) rhobar",
     [](const TokenStatistics& s) { return s.first_order; }},
    {"pred_T3", "second-order prediction of the adjacent cosine", "specs/spectral.md 2.5, eq. 3",
     [](const TokenStatistics& s) { return s.second_order; }},
    {"mean_square", "mean squared norm", "E |y|^2",
     [](const TokenStatistics& s) { return s.mean_square; }},
    {"neighbour_rank_corr", "rank correlation of cos(y_i, y_j) and cos(y_i, y_{j+1})",
     "Spearman over 100 seeded pairs (AsymKV)",
     [](const TokenStatistics& s) { return s.neighbour_rank_corr; }},
    {"n_pairs", "adjacent pairs that entered", "both rows finite and not zero",
     [](const TokenStatistics& s) { return static_cast<double>(s.pairs); }}};

struct List {
  const char* name;
  const char* long_name;
  const char* formula;
  std::vector<double> TokenStatistics::*member;
};
constexpr List lists[] = {
    {"mode_contribution", "share of the adjacent cosine that a mode carries",
     "c_i = mean_t z_i(t) z_i(t+1) / (|y_t| |y_{t+1}|)", &TokenStatistics::contribution},
    {"mode_energy", "share of the output energy in a mode", "e_i = E z_i^2 / sum_j E z_j^2",
     &TokenStatistics::energy},
    {"mode_persistence", "lag-1 persistence of a mode", "rho_i = E z_i(t) z_i(t+1) / E z_i^2",
     &TokenStatistics::persistence},
    {"mode_mean2", "share of the common direction in a mode", "(E z_i)^2 / E |y|^2",
     &TokenStatistics::mean_square_share},
    {"eigenvalues_output", "spectrum of the data-weighted projection, descending",
     "eigenvalues of E y y^T", &TokenStatistics::output_eigenvalues}};

/// The tables of one projection of one corpus.
class CorpusTables {
 public:
  CorpusTables(const std::vector<LayerHomogeneity>& results, Phase phase, int p,
               const std::string& group, const std::vector<int>& lags, Spectrum& spectrum)
      : results_(results),
        phase_(phase),
        p_(static_cast<std::size_t>(p)),
        prefix_(group + "/" + projection_names[static_cast<std::size_t>(p)] + "/"),
        heads_(p == 0 ? spectrum.query_heads : spectrum.kv_heads),
        layers_(static_cast<int>(results.size())),
        lags_(lags),
        spectrum_(spectrum) {}

  void fill() {
    for (const Scalar& scalar : scalars) {
      SpectrumTable& table = by_head(scalar.name, {}, {}, scalar.long_name, scalar.formula);
      table.units = std::string(scalar.name) == "mean_square" ? "activation^2" : "1";
      each_head([&](std::size_t place, const TokenStatistics& s) {
        table.values[place] = scalar.get(s);
      });
    }
    for (const List& list : lists) {
      rows(by_head(list.name, {spectrum_.head_dim}, {"mode"}, list.long_name, list.formula),
           [&](const TokenStatistics& s) { return s.*list.member; });
    }
    rows(by_head("cos_adj_quantiles", {5}, {"quantile"}, "quantiles of the adjacent cosine",
                 "5, 25, 50, 75, 95 %"),
         [](const TokenStatistics& s) { return copy(s.quantiles); });
    spectrum_.attributes[prefix_ + "cos_adj_quantiles"]["q"] = copy(cosine_quantiles);
    SpectrumTable& histogram = by_head("cos_adj_hist", {histogram_bins}, {"bin"},
                                       "histogram of the adjacent cosine", "counts on [-1, 1]");
    histogram.units = "pairs";
    rows(histogram, [](const TokenStatistics& s) { return copy(s.histogram); });
    std::vector<double> edges;
    for (int i = 0; i <= histogram_bins; ++i) {
      edges.push_back(-1 + 2.0 * i / histogram_bins);
    }
    spectrum_.attributes[prefix_ + "cos_adj_hist"]["edges"] = edges;
    rows(by_head("second_order", {5}, {"term"}, "terms of the second-order prediction",
                 "tr C^2, tr C Gs, |Gamma|_F^2, mu C mu, mu Gs mu; over A^2"),
         [](const TokenStatistics& s) { return copy(s.traces); });
    spectrum_.tables[prefix_ + "eigenvalues_output"].units = "activation^2";
    fill_gain_and_lags();
    fill_layer();
  }

 private:
  void fill_gain_and_lags() {
    SpectrumTable& gain = by_head(
        "gain_ratio", {}, {}, "output energy over that of the weights; 1 for isotropic input",
        "E |y|^2 / |W diag(g)|_F^2, g the gain of the norm before; a bias is in y");
    SpectrumTable& lags =
        by_head("cos_lag_mean", {static_cast<int>(lags_.size())}, {"lag"},
                "mean cosine of tokens at a distance", "mean_t cos(y_t, y_{t+lag})");
    spectrum_.attributes[prefix_ + "cos_lag_mean"]["lags"] =
        std::vector<double>(lags_.begin(), lags_.end());
    for (int row = 0; row < layers_; ++row) {
      for (std::size_t head = 0; head < at(row).heads.size(); ++head) {
        const std::size_t place = static_cast<std::size_t>(row * heads_) + head;
        gain.values[place] = at(row).gain[head];
        copy_row(at(row).lags[head], lags, place, lags_.size());
      }
    }
  }

  template <std::size_t n>
  static std::vector<double> copy(const std::array<double, n>& values) {
    return {values.begin(), values.end()};
  }

  const HeadHomogeneity& at(int row) const {
    return (results_[static_cast<std::size_t>(row)].*phase_)[p_];
  }

  SpectrumTable& by_head(const std::string& name, const std::vector<int>& tail,
                         const std::vector<std::string>& axes, const std::string& long_name,
                         const std::string& formula) {
    std::vector<int> shape = {layers_, heads_};
    shape.insert(shape.end(), tail.begin(), tail.end());
    std::vector<std::string> names = {"layer", p_ == 0 ? "q_head" : "kv_head"};
    names.insert(names.end(), axes.begin(), axes.end());
    SpectrumTable& table = spectrum_.tables[prefix_ + name];
    table = missing_table(shape, names, "1", long_name, formula);
    return table;
  }

  void each_head(const std::function<void(std::size_t, const TokenStatistics&)>& visit) const {
    for (int row = 0; row < layers_; ++row) {
      for (std::size_t head = 0; head < at(row).heads.size(); ++head) {
        visit(static_cast<std::size_t>(row * heads_) + head, at(row).heads[head]);
      }
    }
  }

  void rows(SpectrumTable& table,
            const std::function<std::vector<double>(const TokenStatistics&)>& get) const {
    const std::size_t width =
        table.values.size() / static_cast<std::size_t>(std::max(1, layers_ * heads_));
    each_head([&](std::size_t place, const TokenStatistics& s) {
      copy_row(get(s), table, place, width);
    });
  }

  void fill_layer() {
    SpectrumTable& cosine = spectrum_.tables[prefix_ + "layer_cos_adj_mean"];
    cosine =
        missing_table({layers_}, {"layer"}, "1", "mean adjacent cosine of all heads side by side",
                      "energy-weighted mean over heads, pair by pair");
    SpectrumTable& skipped = spectrum_.tables[prefix_ + "layer_cos_adj_skipped"];
    skipped = missing_table({layers_}, {"layer"}, "1",
                            "mean adjacent cosine of the tokens left out at the start",
                            "all heads side by side");
    const int width = heads_ * spectrum_.head_dim;
    SpectrumTable& modes = spectrum_.tables[prefix_ + "layer_mode_contribution"];
    modes = missing_table({layers_, width}, {"layer", "mode"}, "1",
                          "share of layer_cos_adj_mean that a mode of the whole matrix carries",
                          "c_i in the basis of W W^T");
    for (int row = 0; row < layers_; ++row) {
      if (at(row).heads.empty()) {
        continue;
      }
      const auto place = static_cast<std::size_t>(row);
      cosine.values[place] = at(row).layer.cos_mean;
      skipped.values[place] = at(row).skipped_cosine;
      copy_row(at(row).layer.contribution, modes, place, static_cast<std::size_t>(width));
    }
  }

  const std::vector<LayerHomogeneity>& results_;
  Phase phase_;
  std::size_t p_;
  std::string prefix_;
  int heads_;
  int layers_;
  const std::vector<int>& lags_;
  Spectrum& spectrum_;
};

/// Energy of the data in the strongest modes over that of the weights.
void fill_input_alignment(const std::string& group, int p, Spectrum& spectrum) {
  const std::string name = projection_names[static_cast<std::size_t>(p)];
  const SpectrumTable* energy = spectrum.find(group + "/" + name + "/mode_energy");
  const SpectrumTable* values = spectrum.find("spectrum/head/" + name + "/eigenvalues");
  if (energy == nullptr || values == nullptr || energy->shape != values->shape) {
    return;
  }
  SpectrumTable table =
      missing_table(energy->shape, energy->axes, "1",
                    "energy of the data over that of the weights in the top modes",
                    "sum_{i<=k} e_i / sum_{i<=k} p_i");
  const auto width = static_cast<std::size_t>(energy->shape[2]);
  for (std::size_t first = 0; first < table.values.size(); first += width) {
    double total = 0;
    for (std::size_t i = 0; i < width; ++i) {
      total += values->values[first + i];
    }
    double data = 0;
    double weights = 0;
    for (std::size_t i = 0; i < width; ++i) {
      data += energy->values[first + i];
      weights += values->values[first + i] / total;
      table.values[first + i] = data / weights;
    }
  }
  spectrum.tables[group + "/" + name + "/input_alignment"] = std::move(table);
}

/// Attributes of the group, from what was measured.
void describe(const std::vector<LayerHomogeneity>& results, Phase phase, const CorpusInfo& corpus,
              const std::string& group, const char* rope, Spectrum& spectrum) {
  double most = 0;
  double worst = 0;
  for (const LayerHomogeneity& result : results) {
    for (const HeadHomogeneity& projection : result.*phase) {
      for (const TokenStatistics& s : projection.heads) {
        most = std::max(most, static_cast<double>(s.pairs));
        worst = std::max(worst, static_cast<double>(s.dropped) / std::max(1, s.pairs + s.dropped));
      }
    }
  }
  auto& attributes = spectrum.attributes[group];
  attributes = {{"n_sequences", 1.0},
                {"n_pairs", most},
                {"skip_first", static_cast<double>(corpus.skip_first)},
                {"rope", std::string(rope)},
                {"lag", 1.0},
                {"capture_hash", corpus.capture->index().capture_hash},
                {"compute_dtype", corpus.capture->index().compute_dtype},
                {"cache_dtype", corpus.capture->index().cache_dtype},
                {"dropped_share", worst}};
  if (worst > 0.01) {
    attributes["warning"] = fmt::format(
        "up to {:.1f} % of a head's pairs were left out: not finite or zero", 100 * worst);
  }
}

}  // namespace

void fill_homogeneity(const std::vector<LayerHomogeneity>& results, const CorpusInfo& corpus,
                      bool post_rope, Spectrum& spectrum) {
  const std::string group = "homogeneity/" + corpus.name;
  for (int p = 0; p < 3; ++p) {
    CorpusTables(results, &LayerHomogeneity::before, p, group, corpus.lags, spectrum).fill();
    fill_input_alignment(group, p, spectrum);
  }
  describe(results, &LayerHomogeneity::before, corpus, group, "pre", spectrum);
  if (!post_rope) {
    return;
  }
  const std::string rotated = group + "_post_rope";
  for (int p = 0; p < 3; ++p) {
    CorpusTables(results, &LayerHomogeneity::after, p, rotated, corpus.lags, spectrum).fill();
    if (p == 2) {
      continue;
    }
    const std::string name = projection_names[static_cast<std::size_t>(p)];
    SpectrumTable table = spectrum.tables[rotated + "/" + name + "/pred_T2"];
    table.long_name = "first-order cosine after RoPE, from moments before it";
    table.formula = "sum_j E_j (rho_j cos theta_j + eta_j sin theta_j)";
    std::fill(table.values.begin(), table.values.end(), nan);
    const auto heads = static_cast<std::size_t>(table.shape[1]);
    for (std::size_t row = 0; row < results.size(); ++row) {
      copy_row(results[row].rotated[static_cast<std::size_t>(p)], table, row, heads);
    }
    spectrum.tables[rotated + "/" + name + "/pred_from_pre"] = std::move(table);
  }
  describe(results, &LayerHomogeneity::after, corpus, rotated, "post", spectrum);
}

}  // namespace kvscope::spectral
