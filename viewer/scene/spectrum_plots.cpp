#include "kvscope/scene/spectrum_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr const char* no_tokens = "needs the tokens stage: kvscope spectral --tokens CAPTURE";
constexpr const char* names[] = {"q", "k", "v", "o"};

std::string upper(const std::string& name) {
  return std::string(1, static_cast<char>(std::toupper(name[0])));
}

/// Cells of a table along its last axis, at leading indices.
std::vector<double> cells_of(const SpectrumTable& table, const std::vector<int>& leading) {
  std::size_t at = 0;
  for (std::size_t axis = 0; axis < leading.size(); ++axis) {
    if (axis >= table.shape.size() || leading[axis] >= table.shape[axis]) {
      return {};
    }
    at = at * static_cast<std::size_t>(table.shape[axis]) + static_cast<std::size_t>(leading[axis]);
  }
  std::size_t width = 1;
  for (std::size_t axis = leading.size(); axis < table.shape.size(); ++axis) {
    width *= static_cast<std::size_t>(table.shape[axis]);
  }
  const auto first = table.values.begin() + static_cast<std::ptrdiff_t>(at * width);
  return (at + 1) * width <= table.values.size()
             ? std::vector<double>(first, first + static_cast<std::ptrdiff_t>(width))
             : std::vector<double>();
}

/// Points of a list against 1, 2, ...; what is not finite is left out.
Curve by_rank(const std::string& label, const std::vector<double>& values, bool positive = false) {
  Curve curve{label, {}, {}};
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && (!positive || values[i] > 0)) {
      curve.x.push_back(static_cast<double>(i + 1));
      curve.y.push_back(values[i]);
    }
  }
  return curve;
}

class Plots {
 public:
  Plots(const Spectrum& spectrum, const SpectrumSelection& selection)
      : s_(spectrum), selection_(selection), corpus_(find_corpus()) {}

  std::vector<SpectrumPlot> all() const {
    return {eigenvalues(), head_map(),    energy(),           contributions(),
            asymmetry(),   predictions(), data_and_weights(), persistence(),
            adjacency(),   products(),    key_alignment(),    rope()};
  }

 private:
  std::string find_corpus() const {
    for (const auto& [path, attributes] : s_.attributes) {
      const auto rope = attributes.find("rope");
      if (path.starts_with("homogeneity/") && rope != attributes.end() &&
          rope->second == SpectrumAttribute(std::string("pre"))) {
        return path;
      }
    }
    return "";
  }

  std::vector<double> row(const std::string& path, std::vector<int> leading) const {
    const SpectrumTable* table = s_.find(path);
    return table == nullptr ? std::vector<double>() : cells_of(*table, leading);
  }
  std::string layer_text() const {
    return fmt::format("layer {}", s_.layers[static_cast<std::size_t>(selection_.row)]);
  }
  std::string head_text() const {
    return fmt::format("{}, KV head {}", layer_text(), selection_.kv_head);
  }
  int head_of(int p) const {
    return p == 0 ? selection_.kv_head * std::max(1, s_.query_heads / std::max(1, s_.kv_heads))
                  : selection_.kv_head;
  }

  /// Means over heads by layer of a [layers, heads] table, or the column of a [layers] one.
  Curve by_layer(const std::string& label, const std::string& path) const {
    Curve curve{label, {}, {}};
    const SpectrumTable* table = s_.find(path);
    for (int layer = 0; table != nullptr && layer < static_cast<int>(s_.layers.size()); ++layer) {
      double sum = 0;
      int count = 0;
      for (const double value : cells_of(*table, {layer})) {
        sum += std::isfinite(value) ? value : 0;
        count += std::isfinite(value) ? 1 : 0;
      }
      if (count > 0) {
        curve.x.push_back(s_.layers[static_cast<std::size_t>(layer)]);
        curve.y.push_back(sum / count);
      }
    }
    return curve;
  }

  static void add(SpectrumPlot& plot, Curve curve, int colour, CurveKind kind = CurveKind::line,
                  bool faint = false) {
    if (!curve.x.empty()) {
      plot.curves.push_back({std::move(curve), kind, colour, faint});
    }
  }

  static SpectrumPlot started(const char* name, std::string title, const char* x, const char* y) {
    SpectrumPlot plot;
    plot.name = name;
    plot.title = std::move(title);
    plot.x_label = x;
    plot.y_label = y;
    return plot;
  }
  static SpectrumPlot ended(SpectrumPlot plot, const char* why) {
    plot.missing = plot.empty() ? why : "";
    return plot;
  }

  SpectrumPlot eigenvalues() const {
    SpectrumPlot plot = started("eigenvalues", "Eigenvalues of W W^T, " + layer_text(), "mode",
                                "eigenvalue (weight^2)");
    plot.log_x = plot.log_y = true;
    for (int p = 0; p < 4; ++p) {
      const std::string name = names[p];
      add(plot,
          by_rank("W_" + upper(name),
                  row("spectrum/layer/" + name + "/eigenvalues", {selection_.row}), true),
          p);
      const std::vector<double> edge = row("metrics/layer/mp_edge", {selection_.row, p});
      if (!edge.empty() && std::isfinite(edge[0])) {
        plot.levels.push_back({"bulk edge of W_" + upper(name), edge[0], edge[0], p});
      }
      const std::vector<double> floor = row("metrics/noise_floor", {selection_.row, p});
      if (!floor.empty() && floor[0] > 0) {
        plot.levels.push_back(
            {"noise floor of W_" + upper(name), floor[0] * floor[0], floor[0] * floor[0], p});
      }
    }
    return ended(plot, "the fast mode computes no eigenvalues");
  }

  SpectrumPlot head_map() const {
    SpectrumPlot plot =
        started("head_map", "Participation ratio over its null, by head", "head", "layer");
    for (const char* name : names) {
      const SpectrumTable* table =
          s_.find(std::string("metrics/head/") + name + "/participation_ratio_rel");
      if (table != nullptr && table->shape.size() == 2) {
        plot.grids.push_back({"W_" + upper(name), table->shape[0], table->shape[1], table->values});
      }
    }
    return ended(plot, "no heads were analysed");
  }

  static std::vector<double> cumulative(std::vector<double> values) {
    double sum = 0;
    for (const double value : values) {
      sum += std::isfinite(value) ? value : 0;
    }
    double reached = 0;
    for (double& value : values) {
      reached += std::isfinite(value) ? value : 0;
      value = sum > 0 ? reached / sum : std::nan("");
    }
    return values;
  }

  SpectrumPlot energy() const {
    SpectrumPlot plot = started("energy", "Energy of the leading modes, " + layer_text(),
                                "modes, share of all", "share of the energy");
    for (int p = 0; p < 4; ++p) {
      const std::string name = names[p];
      std::vector<double> values = row("spectrum/layer/" + name + "/eigenvalues", {selection_.row});
      std::erase_if(values, [](double value) { return !std::isfinite(value); });
      const auto n = static_cast<double>(values.size());
      Curve curve = by_rank("W_" + upper(name), cumulative(values));
      std::transform(curve.x.begin(), curve.x.end(), curve.x.begin(),
                     [n](double x) { return x / n; });
      add(plot, curve, p);
      const auto marks = [&](const char* table, const char* label, bool faint) {
        const std::vector<double> ranks =
            row(std::string("metrics/layer/") + table, {selection_.row, p});
        constexpr double levels[] = {0.50, 0.90, 0.95, 0.99};
        Curve points{label + upper(name), {}, {}};
        for (std::size_t i = 0; i < ranks.size() && i < 4 && n > 0; ++i) {
          if (std::isfinite(ranks[i])) {
            points.x.push_back(ranks[i] / n);
            points.y.push_back(levels[i]);
          }
        }
        add(plot, points, p, faint ? CurveKind::line : CurveKind::points, faint);
      };
      marks("energy_rank", "k50, k90, k95, k99 of W_", false);
      marks("energy_rank_null", "null of W_", true);
    }
    return ended(plot, "the fast mode computes no eigenvalues");
  }

  SpectrumPlot contributions() const {
    SpectrumPlot plot = started("contributions", "Mode contributions c_i, " + head_text(), "mode",
                                "c_i; lines: their sum so far, ending at the cosine");
    for (int p = 0; p < 3 && !corpus_.empty(); ++p) {
      const std::string name = names[p];
      const std::vector<double> c =
          row(corpus_ + "/" + name + "/mode_contribution", {selection_.row, head_of(p)});
      add(plot, by_rank("c_i of " + upper(name), c), p, CurveKind::stems);
      std::vector<double> sums = c;
      for (std::size_t i = 1; i < sums.size(); ++i) {
        sums[i] += sums[i - 1];
      }
      add(plot, by_rank("sum for " + upper(name), sums), p, CurveKind::line, true);
    }
    return ended(plot, no_tokens);
  }

  SpectrumPlot asymmetry() const {
    SpectrumPlot plot = started("asymmetry", "Asymmetry of V against K; above 0: V more dispersed",
                                "layer", "A_KV (nats)");
    const std::vector<Curve> curves = asymmetry_curves(s_);
    for (std::size_t i = 0; i < curves.size(); ++i) {
      add(plot, curves[i], i == 0 ? 4 : 2, CurveKind::line, i > 0);
    }
    plot.levels.push_back({"symmetric", 0, 0, 4});
    return ended(plot, "K or V is missing");
  }

  SpectrumPlot predictions() const {
    SpectrumPlot plot =
        started("predictions", "Adjacent cosine by head: predicted against measured",
                "predicted, first order: beta + (1 - beta) rhobar", "measured");
    plot.identity = true;
    for (int p = 0; p < 3 && !corpus_.empty(); ++p) {
      const SpectrumTable* x = s_.find(corpus_ + "/" + names[p] + "/pred_T2");
      const SpectrumTable* y = s_.find(corpus_ + "/" + names[p] + "/cos_adj_mean");
      Curve curve{upper(names[p]), {}, {}};
      for (std::size_t i = 0; x != nullptr && y != nullptr && i < x->values.size(); ++i) {
        if (i < y->values.size() && std::isfinite(x->values[i]) && std::isfinite(y->values[i])) {
          curve.x.push_back(x->values[i]);
          curve.y.push_back(y->values[i]);
        }
      }
      add(plot, curve, p, CurveKind::points);
    }
    return ended(plot, no_tokens);
  }

  SpectrumPlot data_and_weights() const {
    SpectrumPlot plot = started(
        "data_and_weights", "Energy of the data against that of the weights, " + head_text(),
        "p_i, share of the weights' energy", "e_i, share of the output's energy");
    plot.log_x = plot.log_y = plot.identity = true;
    for (int p = 0; p < 3 && !corpus_.empty(); ++p) {
      const std::string name = names[p];
      const std::vector<double> e =
          row(corpus_ + "/" + name + "/mode_energy", {selection_.row, head_of(p)});
      const std::vector<double> lambda =
          row("spectrum/head/" + name + "/eigenvalues", {selection_.row, head_of(p)});
      double sum = 0;
      for (const double value : lambda) {
        sum += std::isfinite(value) ? value : 0;
      }
      Curve curve{upper(name), {}, {}};
      for (std::size_t i = 0; i < std::min(e.size(), lambda.size()); ++i) {
        if (e[i] > 0 && lambda[i] > 0) {
          curve.x.push_back(lambda[i] / sum);
          curve.y.push_back(e[i]);
        }
      }
      add(plot, curve, p, CurveKind::points);
    }
    return ended(plot, no_tokens);
  }

  SpectrumPlot persistence() const {
    SpectrumPlot plot =
        started("persistence", "Persistence of the modes, " + head_text(), "mode", "rho_i, lag-1");
    for (int p = 0; p < 3 && !corpus_.empty(); ++p) {
      const std::string name = names[p];
      add(plot,
          by_rank(upper(name),
                  row(corpus_ + "/" + name + "/mode_persistence", {selection_.row, head_of(p)})),
          p, CurveKind::points);
    }
    return ended(plot, no_tokens);
  }

  SpectrumPlot adjacency() const {
    SpectrumPlot plot = started("adjacency", "Cosine of adjacent tokens, mean over heads", "layer",
                                "cosine; faint: random pairs");
    for (int p = 0; p < 3 && !corpus_.empty(); ++p) {
      const std::string group = corpus_ + "/" + names[p] + "/";
      add(plot, by_layer(upper(names[p]), group + "cos_adj_mean"), p);
      add(plot, by_layer(upper(names[p]) + " shuffled", group + "cos_shuffled"), p, CurveKind::line,
          true);
    }
    return ended(plot, no_tokens);
  }

  SpectrumPlot products() const {
    SpectrumPlot plot = started("products", "Singular values of the head products, " + layer_text(),
                                "mode", "singular value (weight^2)");
    plot.log_y = true;
    int colour = 0;
    for (const char* name : {"qk", "ov"}) {
      for (int head = 0; head < s_.query_heads; ++head) {
        const std::string label =
            fmt::format("{} head {}", name == std::string("qk") ? "QK" : "OV", head);
        add(plot,
            by_rank(label,
                    row(std::string("spectrum/head/") + name + "/singular_values",
                        {selection_.row, head}),
                    true),
            colour, CurveKind::line, head > 0);
      }
      colour += 2;
    }
    return ended(plot, "the products were not computed");
  }

  SpectrumPlot key_alignment() const {
    SpectrumPlot plot =
        started("key_alignment", "Alignment of the key rows between KV heads, " + layer_text(),
                "KV head", "KV head");
    const std::vector<double> cells = row("alignment/gram_kk", {selection_.row});
    if (!cells.empty()) {
      plot.grids.push_back({"K", s_.kv_heads, s_.kv_heads, cells});
    }
    return ended(plot, "the products were not computed");
  }

  SpectrumPlot rope() const {
    SpectrumPlot plot = started("rope", "Adjacent cosine before and after RoPE, mean over heads",
                                "layer", "cosine; faint: after RoPE");
    for (int p = 0; p < 2 && !corpus_.empty(); ++p) {
      const std::string tail = std::string("/") + names[p] + "/cos_adj_mean";
      add(plot, by_layer(upper(names[p]) + " before", corpus_ + tail), p);
      add(plot, by_layer(upper(names[p]) + " after", corpus_ + "_post_rope" + tail), p,
          CurveKind::line, true);
    }
    return ended(plot, no_tokens);
  }

  const Spectrum& s_;
  SpectrumSelection selection_;
  std::string corpus_;
};

}  // namespace

std::vector<SpectrumPlot> spectrum_plots(const Spectrum& spectrum,
                                         const SpectrumSelection& selection) {
  KVSCOPE_CHECK(selection.row >= 0 && selection.row < static_cast<int>(spectrum.layers.size()),
                ErrorCode::usage, fmt::format("the spectrum has no row {}", selection.row),
                "spectrum_plots", fmt::format("0 to {}", spectrum.layers.size() - 1));
  KVSCOPE_CHECK(selection.kv_head >= 0 && selection.kv_head < std::max(1, spectrum.kv_heads),
                ErrorCode::usage, fmt::format("the spectrum has no KV head {}", selection.kv_head),
                "spectrum_plots", fmt::format("0 to {}", spectrum.kv_heads - 1));
  return Plots(spectrum, selection).all();
}

}  // namespace kvscope
