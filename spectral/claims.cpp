#include "kvscope/spectral/claims.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "statistics.h"

namespace kvscope {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr int permutations = 10000;

std::vector<double> values_of(const Spectrum& spectrum, const std::string& path) {
  const SpectrumTable* table = spectrum.find(path);
  return table == nullptr ? std::vector<double>() : table->values;
}

std::string judge(double low, double high, double chance) {
  if (std::isnan(low) || std::isnan(high)) {
    return "no data";
  }
  return low > chance ? "holds" : high < chance ? "fails" : "undecided";
}

class Claims {
 public:
  Claims(std::uint64_t seed, Spectrum& spectrum) : seed_(seed), spectrum_(spectrum) {}

  /// Share of positive values, zero counting for neither side.
  void share(const std::string& name, const std::string& statement,
             const std::vector<double>& values) {
    int positive = 0;
    int count = 0;
    for (const double value : values) {
      count += std::isfinite(value) && value != 0 ? 1 : 0;
      positive += value > 0 ? 1 : 0;
    }
    const spectral::Interval interval = spectral::wilson(positive, count);
    SpectrumClaim claim;
    claim.name = name;
    claim.statement = statement;
    claim.statistic = count > 0 ? static_cast<double>(positive) / count : nan;
    claim.low = interval.low;
    claim.high = interval.high;
    claim.p = count > 0 ? spectral::sign_test(positive, count) : nan;
    claim.count = count;
    claim.verdict = judge(claim.low, claim.high, 0.5);
    spectrum_.claims.push_back(claim);
  }

  /// Rank correlation over heads.
  void correlation(const std::string& name, const std::string& statement,
                   const std::vector<double>& a, const std::vector<double>& b) {
    int count = 0;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      count += std::isfinite(a[i]) && std::isfinite(b[i]) ? 1 : 0;
    }
    SpectrumClaim claim;
    claim.name = name;
    claim.statement = statement;
    claim.statistic = spectral::rank_correlation(a, b);
    const spectral::Interval interval = spectral::fisher(claim.statistic, count);
    claim.low = interval.low;
    claim.high = interval.high;
    claim.p = spectral::permutation_p(a, b, permutations, seed_);
    claim.count = count;
    claim.verdict = judge(claim.low, claim.high, 0);
    spectrum_.claims.push_back(claim);
  }

 private:
  std::uint64_t seed_;
  Spectrum& spectrum_;
};

std::vector<double> difference(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> result;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    result.push_back(a[i] - b[i]);
  }
  return result;
}

/// Column `p` of a [layers, 4] table.
std::vector<double> column(const std::vector<double>& table, std::size_t p) {
  std::vector<double> result;
  for (std::size_t at = p; at < table.size(); at += 4) {
    result.push_back(table[at]);
  }
  return result;
}

std::vector<double> inverse(std::vector<double> values) {
  std::transform(values.begin(), values.end(), values.begin(), [](double x) { return 1 / x; });
  return values;
}

/// Mean over heads of a [layers, heads] table.
std::vector<double> by_layer(const Spectrum& spectrum, const std::string& path) {
  const SpectrumTable* table = spectrum.find(path);
  std::vector<double> result;
  if (table == nullptr || table->shape.size() != 2) {
    return result;
  }
  const auto heads = static_cast<std::size_t>(table->shape[1]);
  for (std::size_t first = 0; first < table->values.size(); first += heads) {
    double sum = 0;
    for (std::size_t head = 0; head < heads; ++head) {
      sum += table->values[first + head];
    }
    result.push_back(sum / static_cast<double>(heads));
  }
  return result;
}

/// The first corpus before RoPE; empty if the tokens stage was not run.
std::string corpus_of(const Spectrum& spectrum) {
  for (const auto& [path, attributes] : spectrum.attributes) {
    const auto rope = attributes.find("rope");
    if (path.starts_with("homogeneity/") && rope != attributes.end() &&
        rope->second == SpectrumAttribute(std::string("pre"))) {
      return path;
    }
  }
  return "";
}

void weight_claims(const Spectrum& s, Claims& claims) {
  claims.share("v_more_dispersed_by_layer",
               "V is more dispersed than K, both against their nulls: A_KV > 0, layer by layer",
               values_of(s, "asymmetry/A_KV"));
  claims.share("v_more_dispersed_by_head", "the same head by head",
               values_of(s, "asymmetry/A_KV_head"));
  const std::vector<double> erank = values_of(s, "metrics/layer/erank_energy_rel");
  const std::vector<double> q = column(erank, 0);
  const std::vector<double> k = column(erank, 1);
  const std::vector<double> v = column(erank, 2);
  std::vector<double> above;
  std::vector<double> closer;
  for (std::size_t i = 0; i < v.size(); ++i) {
    above.push_back(v[i] - std::max(q[i], k[i]));
    closer.push_back(
        std::isnan(q[i] + k[i] + v[i]) ? nan : std::abs(v[i] - q[i]) - std::abs(q[i] - k[i]));
  }
  claims.share("v_above_q_and_k", "V's effective rank over its null exceeds both Q's and K's",
               above);
  claims.share("q_closer_to_k_than_to_v", "Q is closer to K than to V in it", closer);
  const std::vector<double> gram = values_of(s, "alignment/gram_kv");
  claims.share("k_and_v_rows_aligned",
               "the row spaces of a KV head's K and V are aligned beyond chance",
               difference(gram, values_of(s, "alignment/gram_kv_null")));
}

void token_claims(const Spectrum& s, Claims& claims) {
  const std::string group = corpus_of(s);
  const std::string names[] = {"q", "k", "v"};
  const auto path = [&](const std::string& p, const char* table) {
    return group + "/" + p + "/" + table;
  };
  const auto layer_mean = [&](const std::string& p, const char* table) {
    return by_layer(s, path(p, table));
  };
  claims.share("keys_more_alike_than_values",
               "adjacent keys are more alike than adjacent values, layer by layer",
               difference(layer_mean("k", "cos_adj_mean"), layer_mean("v", "cos_adj_mean")));
  claims.share("queries_more_alike_than_values",
               "adjacent queries are more alike than adjacent values, layer by layer",
               difference(layer_mean("q", "cos_adj_mean"), layer_mean("v", "cos_adj_mean")));
  claims.share("neighbouring_keys_above_shuffled",
               "adjacent keys are more alike than random pairs, head by head",
               values_of(s, path("k", "adj_excess")));
  claims.share("key_excess_above_value_excess",
               "and by more than values are: adjacency itself, without the common direction",
               difference(layer_mean("k", "adj_excess"), layer_mean("v", "adj_excess")));
  for (const std::string& p : names) {
    claims.correlation(
        "concentration_predicts_" + p,
        "heads of W_" + p + " more concentrated than their null have more alike neighbours",
        inverse(values_of(s, "metrics/head/" + p + "/participation_ratio_rel")),
        values_of(s, path(p, "cos_adj_mean")));
  }
  for (const std::string& p : names) {
    claims.correlation("first_order_predicts_" + p,
                       "beta + (1 - beta) rhobar ranks the heads of " + p + " by adjacent cosine",
                       values_of(s, path(p, "pred_T2")), values_of(s, path(p, "cos_adj_mean")));
  }
}

/// Predicted against actual merge loss, for each decision that was given.
void merge_claims(const Spectrum& s, Claims& claims) {
  for (const auto& [path, attributes] : s.attributes) {
    if (!path.starts_with("merging/")) {
      continue;
    }
    for (const std::string side : {"k", "v"}) {
      claims.correlation("merge_loss_of_" + side + "_predicted:" + path.substr(8),
                         "the spectra rank KV heads by what merging " + side + " loses",
                         values_of(s, path + "/" + side + "/predicted"),
                         values_of(s, path + "/" + side + "/actual"));
    }
  }
}

}  // namespace

void add_claims(std::uint64_t seed, Spectrum& spectrum) {
  spectrum.claims.clear();
  Claims claims(seed, spectrum);
  weight_claims(spectrum, claims);
  token_claims(spectrum, claims);
  merge_claims(spectrum, claims);
}

}  // namespace kvscope
