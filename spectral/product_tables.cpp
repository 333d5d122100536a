#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "products.h"
#include "tables.h"

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

class ProductTables {
 public:
  ProductTables(const std::vector<LayerResult>& results, const SpectralOptions& options,
                Spectrum& spectrum)
      : results_(results),
        layers_(static_cast<int>(results.size())),
        options_(options),
        spectrum_(spectrum) {}

  void fill() {
    const ProductNull sampled =
        gaussian_product_null(spectrum_.head_dim, spectrum_.hidden_dim, options_.seed);
    SpectrumMetrics null = missing_metrics();
    null[Metric::participation_ratio] = sampled.participation_ratio;
    null[Metric::erank_energy] = sampled.erank_energy;
    null[Metric::erank_sv] = sampled.erank_sv;
    null.energy_rank[1] = sampled.k90;
    if (!options_.fast) {
      product("qk", "W_Q^T W_K of a query head and its KV head", &LayerProducts::qk, null);
      product("ov", "W_O W_V of a query head and its KV head", &LayerProducts::ov, null);
    }
    if (options_.ov_eigenvalues && !options_.fast) {
      eigenvalues();
    }
    spectrum_.attributes["spectrum/head/qk/singular_values"]["rope"] = std::string("none");
    const int q = spectrum_.query_heads;
    const int kv = spectrum_.kv_heads;
    std::vector<double> sizes(overlap_sizes.begin(), overlap_sizes.end());
    plain("qk_subspace_overlap", {q, static_cast<int>(sizes.size())}, {"q_head", "k"},
          "overlap of the top k right subspaces of a query head and its KV head",
          "|V_Q,k^T V_K,k|_F^2 / k; chance: k / d", &LayerProducts::overlap);
    spectrum_.attributes["alignment/qk_subspace_overlap"]["k_values"] = sizes;
    alignment("gram_qk", {q}, {"q_head"}, &LayerProducts::gram_qk, 0, 1);
    alignment("gram_kv", {kv}, {"kv_head"}, &LayerProducts::gram_kv, 1, 2);
    alignment("gram_qq", {q, q}, {"q_head", "q_head"}, &LayerProducts::gram_qq, 0, 0);
    alignment("gram_kk", {kv, kv}, {"kv_head", "kv_head"}, &LayerProducts::gram_kk, 1, 1);
    alignment("gram_vv", {kv, kv}, {"kv_head", "kv_head"}, &LayerProducts::gram_vv, 2, 2);
  }

 private:
  using Lists = std::vector<std::vector<double>>;

  void product(const std::string& name, const std::string& what, Lists LayerProducts::*lists,
               const SpectrumMetrics& null) {
    const int heads = spectrum_.query_heads;
    const int n = spectrum_.head_dim;
    SpectrumTable table =
        missing_table({layers_, heads, n}, {"layer", "q_head", "mode"}, "weight^2",
                      "singular values of " + what, "of the head_dim x head_dim core, descending");
    MetricTables metrics(spectrum_, "metrics/head/" + name + "/", {layers_, heads},
                         {"layer", "q_head"}, MetricSet::core);
    for (int row = 0; row < layers_; ++row) {
      const Lists& values = results_[static_cast<std::size_t>(row)].products.*lists;
      for (int head = 0; head < heads; ++head) {
        const auto place = static_cast<std::size_t>(row * heads + head);
        SpectrumMetrics of_head = missing_metrics();
        if (static_cast<std::size_t>(head) < values.size()) {
          std::vector<double> energy = values[static_cast<std::size_t>(head)];
          copy_row(energy, table, place, static_cast<std::size_t>(n));
          std::transform(energy.begin(), energy.end(), energy.begin(),
                         [](double value) { return value * value; });
          of_head = std::isnan(energy.front()) ? of_head : metrics_of(energy, nan);
        }
        metrics.write(place, of_head, null, n);
      }
    }
    spectrum_.tables["spectrum/head/" + name + "/singular_values"] = std::move(table);
  }

  /// Eigenvalues of W_O W_V and their sum over that of their moduli: 1 for a head that copies what
  /// it reads, -1 for one that takes it away, about 0 for unrelated factors.
  void eigenvalues() {
    const int heads = spectrum_.query_heads;
    const int n = spectrum_.head_dim;
    SpectrumTable table =
        missing_table({layers_, heads, n, 2}, {"layer", "q_head", "mode", "part"}, "weight^2",
                      "eigenvalues of W_O W_V that may differ from 0, real and imaginary part",
                      "of the head_dim x head_dim product W_V W_O, largest modulus first");
    SpectrumTable copying =
        missing_table({layers_, heads}, {"layer", "q_head"}, "1",
                      "how far the eigenvalues of W_O W_V are positive", "sum l_i / sum |l_i|");
    for (int row = 0; row < layers_; ++row) {
      const Lists& values = results_[static_cast<std::size_t>(row)].products.ov_eigenvalues;
      for (std::size_t head = 0; head < values.size(); ++head) {
        const std::size_t place = static_cast<std::size_t>(row * heads) + head;
        copy_row(values[head], table, place, 2 * static_cast<std::size_t>(n));
        double real = 0;
        double modulus = 0;
        for (std::size_t i = 0; i + 1 < values[head].size(); i += 2) {
          real += values[head][i];
          modulus += std::hypot(values[head][i], values[head][i + 1]);
        }
        copying.values[place] = modulus > 0 ? real / modulus : nan;
      }
    }
    spectrum_.tables["spectrum/head/ov/eigenvalues"] = std::move(table);
    spectrum_.tables["metrics/head/ov/copying"] = std::move(copying);
  }

  SpectrumTable& plain(const std::string& name, const std::vector<int>& tail,
                       const std::vector<std::string>& axes, const std::string& long_name,
                       const std::string& formula, std::vector<double> LayerProducts::*list) {
    std::vector<int> shape = {layers_};
    shape.insert(shape.end(), tail.begin(), tail.end());
    std::vector<std::string> names = {"layer"};
    names.insert(names.end(), axes.begin(), axes.end());
    SpectrumTable& table = spectrum_.tables["alignment/" + name];
    table = missing_table(shape, names, "1", long_name, formula);
    const std::size_t width = table.values.size() / static_cast<std::size_t>(std::max(layers_, 1));
    for (int row = 0; row < layers_; ++row) {
      copy_row(results_[static_cast<std::size_t>(row)].products.*list, table,
               static_cast<std::size_t>(row), width);
    }
    return table;
  }

  /// An alignment with what independent Gaussian directions of the same spectra would show.
  void alignment(const std::string& name, const std::vector<int>& tail,
                 const std::vector<std::string>& axes, std::vector<double> LayerProducts::*list,
                 int a, int b) {
    const SpectrumTable& table =
        plain(name, tail, axes, "alignment of the row spaces of two heads, weighted by energy",
              "|W_A W_B^T|_F^2 / (|W_A W_A^T|_F |W_B W_B^T|_F)", list);
    SpectrumTable null =
        missing_table(table.shape, table.axes, "1", name + " of unrelated heads with these spectra",
                      "sqrt(PR_A PR_B) / d");
    const SpectrumTable* pr_a = ratio(a);
    const SpectrumTable* pr_b = ratio(b);
    const std::size_t first = static_cast<std::size_t>(tail[0]);
    const std::size_t second = tail.size() > 1 ? static_cast<std::size_t>(tail[1]) : 1;
    for (std::size_t cell = 0; pr_a != nullptr && pr_b != nullptr && cell < null.values.size();
         ++cell) {
      const std::size_t row = cell / (first * second);
      const std::size_t left = cell / second % first;
      const std::size_t right = tail.size() > 1 ? cell % second : of_kv(left, a, b);
      null.values[cell] =
          std::sqrt(pr_a->values[row * first + left] *
                    pr_b->values[row * static_cast<std::size_t>(pr_b->shape[1]) + right]) /
          spectrum_.hidden_dim;
    }
    spectrum_.tables["alignment/" + name + "_null"] = std::move(null);
  }

  std::size_t of_kv(std::size_t head, int a, int b) const {
    const bool across = a == 0 && b != 0;
    return across ? head / static_cast<std::size_t>(spectrum_.query_heads / spectrum_.kv_heads)
                  : head;
  }

  const SpectrumTable* ratio(int p) const {
    return spectrum_.find(std::string("metrics/head/") +
                          projection_names[static_cast<std::size_t>(p)] + "/participation_ratio");
  }

  const std::vector<LayerResult>& results_;
  int layers_;
  const SpectralOptions& options_;
  Spectrum& spectrum_;
};

}  // namespace

void fill_products(const std::vector<LayerResult>& results, const SpectralOptions& options,
                   Spectrum& spectrum) {
  ProductTables(results, options, spectrum).fill();
}

}  // namespace kvscope::spectral
