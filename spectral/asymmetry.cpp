#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gram.h"
#include "lapack.h"
#include "random.h"
#include "statistics.h"
#include "tables.h"

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr int q_row = 0;
constexpr int k_row = 1;
constexpr int v_row = 2;

/// Standard deviation of ln PR_V - ln PR_K over Gaussian heads [rows, columns]. The participation
/// ratio needs no eigenvalues: tr(G)^2 / |G|_F^2.
double null_spread(int rows, int columns, std::uint64_t seed) {
  constexpr int draws = 32;
  const SingleThreaded single;
  Random random(seed);
  std::vector<float> w(cells(rows, columns));
  double sum = 0;
  double squares = 0;
  for (int draw = 0; draw < draws; ++draw) {
    std::generate(w.begin(), w.end(), [&] { return static_cast<float>(random.normal()); });
    WeightView view;
    view.data = w.data();
    view.rows = rows;
    view.columns = columns;
    view.stride = columns;
    const GramSide side = rows <= columns ? GramSide::rows : GramSide::columns;
    const Moments found = moments(gram(view, side), std::min(rows, columns));
    const double log_ratio = std::log(found.trace / found.square * found.trace);
    sum += log_ratio;
    squares += log_ratio * log_ratio;
  }
  const double variance = (squares - sum / draws * sum) / (draws - 1);
  return std::sqrt(2 * std::max(variance, 0.0));
}

/// Reads the metric tables by layer and head.
class Reader {
 public:
  explicit Reader(const Spectrum& spectrum) : spectrum_(spectrum) {}

  double layer(const char* metric, std::size_t row, int projection) const {
    const SpectrumTable* table = spectrum_.find(std::string("metrics/layer/") + metric);
    return table == nullptr
               ? nan
               : table->values[row * projections + static_cast<std::size_t>(projection)];
  }

  std::vector<double> heads(const char* metric, std::size_t row, int projection) const {
    const SpectrumTable* table =
        spectrum_.find(std::string("metrics/head/") +
                       projection_names[static_cast<std::size_t>(projection)] + "/" + metric);
    if (table == nullptr) {
      return {};
    }
    const auto count = static_cast<std::ptrdiff_t>(table->shape[1]);
    const auto first = table->values.begin() + static_cast<std::ptrdiff_t>(row) * count;
    return {first, first + count};
  }

 private:
  const Spectrum& spectrum_;
};

constexpr const char* pr_rel = "participation_ratio_rel";
constexpr const char* erank_rel = "erank_energy_rel";

double median_log(const Reader& read, std::size_t row, int projection) {
  return std::log(quantile(read.heads(pr_rel, row, projection), 0.5));
}

}  // namespace

void fill_asymmetry(std::uint64_t seed, Spectrum& spectrum) {
  const Reader read(spectrum);
  const int layers = static_cast<int>(spectrum.layers.size());
  const auto by_layer = [&](const std::string& name, const char* units, const char* long_name,
                            const char* formula) -> std::vector<double>& {
    SpectrumTable& table = spectrum.tables["asymmetry/" + name];
    table = missing_table({layers}, {"layer"}, units, long_name, formula);
    return table.values;
  };
  auto& a_kv = by_layer("A_KV", "nat", "asymmetry of V against K; above 0: V more dispersed",
                        "ln PRrel_V - ln PRrel_K");
  auto& a_kv_erank = by_layer("A_KV_erank", "nat", "asymmetry of V against K by effective rank",
                              "ln erank_energy_rel_V - ln erank_energy_rel_K");
  auto& a_kv_bounded = by_layer("A_KV_bounded", "1", "asymmetry of V against K in [-1, 1]",
                                "(PRrel_V - PRrel_K) / (PRrel_V + PRrel_K)");
  auto& a_qkv = by_layer("A_QKV", "nat", "asymmetry of V against Q and K, medians over heads",
                         "ln PRrel_V - (ln PRrel_Q + ln PRrel_K) / 2");
  auto& norm_ratio =
      by_layer("norm_ratio", "1", "Frobenius norm of W_K over that of W_V", "|W_K|_F / |W_V|_F");
  auto& sigma_ratio = by_layer("sigma_ratio", "1", "largest singular value of W_K over that of W_V",
                               "sigma_max_K / sigma_max_V");
  auto& q25 =
      by_layer("A_KV_head_q25", "nat", "lower quartile of A_KV over KV heads", "quantile 0.25");
  auto& median =
      by_layer("A_KV_head_median", "nat", "median of A_KV over KV heads", "quantile 0.5");
  auto& q75 =
      by_layer("A_KV_head_q75", "nat", "upper quartile of A_KV over KV heads", "quantile 0.75");
  auto& spread =
      by_layer("A_KV_head_null_sd", "nat", "spread of a head's A_KV between Gaussian matrices",
               "standard deviation over 32 seeded draws");
  SpectrumTable& heads = spectrum.tables["asymmetry/A_KV_head"];
  heads = missing_table({layers, spectrum.kv_heads}, {"layer", "kv_head"}, "nat",
                        "asymmetry of V against K per KV head", "ln PRrel_V - ln PRrel_K");
  std::fill(spread.begin(), spread.end(),
            null_spread(spectrum.head_dim, spectrum.hidden_dim, seed));
  for (std::size_t row = 0; row < spectrum.layers.size(); ++row) {
    const double k = read.layer(pr_rel, row, k_row);
    const double v = read.layer(pr_rel, row, v_row);
    a_kv[row] = std::log(v) - std::log(k);
    a_kv_erank[row] =
        std::log(read.layer(erank_rel, row, v_row)) - std::log(read.layer(erank_rel, row, k_row));
    a_kv_bounded[row] = (v - k) / (v + k);
    a_qkv[row] = median_log(read, row, v_row) -
                 (median_log(read, row, q_row) + median_log(read, row, k_row)) / 2;
    norm_ratio[row] = std::sqrt(read.layer("fro2", row, k_row) / read.layer("fro2", row, v_row));
    sigma_ratio[row] = read.layer("sigma_max", row, k_row) / read.layer("sigma_max", row, v_row);
    const std::vector<double> head_k = read.heads(pr_rel, row, k_row);
    std::vector<double> head_a = read.heads(pr_rel, row, v_row);
    for (std::size_t head = 0; head < head_a.size(); ++head) {
      head_a[head] = std::log(head_a[head]) - std::log(head_k[head]);
      heads.values[row * head_a.size() + head] = head_a[head];
    }
    q25[row] = quantile(head_a, 0.25);
    median[row] = quantile(head_a, 0.5);
    q75[row] = quantile(head_a, 0.75);
  }
}

}  // namespace kvscope::spectral
