#include "spectrum_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "text_table.h"

namespace kvscope::report {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::string p_text(double p) {
  return std::isnan(p) ? "–" : p < 1e-3 ? fmt::format("{:.0e}", p) : fmt::format("{:.3f}", p);
}

}  // namespace

bool is_bulky(const std::string& path) {
  for (const char* part : {"eigenvalues", "singular_values", "left_vectors", "mode_",
                           "cos_adj_hist", "input_alignment", "second_order"}) {
    if (path.find(part) != std::string::npos) {
      return true;
    }
  }
  return path.starts_with("timing/");
}

std::string first_corpus(const Spectrum& spectrum) {
  for (const auto& [path, attributes] : spectrum.attributes) {
    const auto rope = attributes.find("rope");
    if (path.starts_with("homogeneity/") && rope != attributes.end() &&
        rope->second == SpectrumAttribute(std::string("pre"))) {
      return path;
    }
  }
  return "";
}

double row_mean(const Spectrum& spectrum, const std::string& path, std::size_t row) {
  const SpectrumTable* table = spectrum.find(path);
  if (table == nullptr || table->shape.empty() || table->shape[0] <= 0) {
    return nan;
  }
  const std::size_t width = table->values.size() / static_cast<std::size_t>(table->shape[0]);
  double sum = 0;
  int count = 0;
  for (std::size_t at = row * width; at < (row + 1) * width && at < table->values.size(); ++at) {
    sum += std::isfinite(table->values[at]) ? table->values[at] : 0;
    count += std::isfinite(table->values[at]) ? 1 : 0;
  }
  return count > 0 ? sum / count : nan;
}

std::string product_table(const Spectrum& s) {
  if (s.find("alignment/gram_qk") == nullptr) {
    return "";
  }
  TextTable table({"layer", "PR of QK", "rel", "PR of OV", "rel", "Q~K", "chance", "K~V", "chance",
                   "K~K", "V~V"},
                  "rrrrrrrrrrr");
  for (std::size_t row = 0; row < s.layers.size(); ++row) {
    const auto mean = [&](const char* path, int digits) {
      return number(row_mean(s, path, row), digits);
    };
    table.add({fmt::format("{}", s.layers[row]), mean("metrics/head/qk/participation_ratio", 1),
               mean("metrics/head/qk/participation_ratio_rel", 2),
               mean("metrics/head/ov/participation_ratio", 1),
               mean("metrics/head/ov/participation_ratio_rel", 2), mean("alignment/gram_qk", 3),
               mean("alignment/gram_qk_null", 3), mean("alignment/gram_kv", 3),
               mean("alignment/gram_kv_null", 3), mean("alignment/gram_kk", 3),
               mean("alignment/gram_vv", 3)});
  }
  return "\nHEAD PRODUCTS AND ALIGNMENT   means over heads; A~B: energy-weighted alignment of the "
         "row spaces\n" +
         table.text();
}

std::string token_table(const Spectrum& s) {
  const std::string group = first_corpus(s);
  if (group.empty()) {
    return "";
  }
  TextTable table(
      {"layer", "", "cosine", "shuffled", "excess", "T2", "T3", "beta", "rhobar", "after RoPE"},
      "rlrrrrrrrr");
  for (std::size_t row = 0; row < s.layers.size(); ++row) {
    for (const char* name : {"q", "k", "v"}) {
      const auto mean = [&](const char* metric) {
        return number(row_mean(s, group + "/" + name + "/" + metric, row), 3);
      };
      const double after = row_mean(s, group + "_post_rope/" + name + "/cos_adj_mean", row);
      table.add({name == std::string("q") ? fmt::format("{}", s.layers[row]) : "", name,
                 mean("cos_adj_mean"), mean("cos_shuffled"), mean("adj_excess"), mean("pred_T2"),
                 mean("pred_T3"), mean("beta"), mean("rhobar"), number(after, 3)});
    }
  }
  return fmt::format(
             "\nADJACENT TOKENS   {}; means over heads; T2, T3: predictions of first and second "
             "order\n",
             group.substr(12)) +
         table.text();
}

std::string merging_table(const Spectrum& s) {
  std::string text;
  for (const auto& [path, attributes] : s.attributes) {
    if (!path.starts_with("merging/")) {
      continue;
    }
    TextTable table({"layer", "merged tokens", "K lost", "K predicted", "V lost", "V predicted"},
                    "rrrrrr");
    for (std::size_t row = 0; row < s.layers.size(); ++row) {
      const auto mean = [&](const char* name, int digits) {
        return number(row_mean(s, path + "/" + name, row), digits);
      };
      table.add({fmt::format("{}", s.layers[row]), mean("merged_tokens", 0), mean("k/actual", 3),
                 mean("k/predicted", 3), mean("v/actual", 3), mean("v/predicted", 3)});
    }
    text += fmt::format("\nMERGE LOSS   {}; share of the merged tokens' energy, means over heads\n",
                        path.substr(8)) +
            table.text();
  }
  return text;
}

std::string claims_table(const Spectrum& s) {
  if (s.claims.empty()) {
    return "";
  }
  TextTable table({"verdict", "statistic", "95 % interval", "p", "n", "claim"}, "lrrrrl");
  int without = 0;
  for (const SpectrumClaim& claim : s.claims) {
    if (claim.count == 0) {
      ++without;
      continue;
    }
    table.add({claim.verdict, number(claim.statistic, 3),
               std::isnan(claim.low) ? "–" : fmt::format("{:.3f} .. {:.3f}", claim.low, claim.high),
               p_text(claim.p), fmt::format("{}", claim.count), claim.statement});
  }
  return "\nCLAIMS   a share against a fair coin, or a rank correlation over heads against "
         "permutations; p takes layers and heads for independent\n" +
         table.text() +
         (without > 0 ? fmt::format("  {} more need adjacent tokens: --tokens CAPTURE\n", without)
                      : "");
}

}  // namespace kvscope::report
