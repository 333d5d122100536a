#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kvscope/report/formats.h"
#include "spectrum_parts.h"
#include "text_table.h"

namespace kvscope {
namespace {

using report::number;
using report::TextTable;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

const char* status_name(SpectrumStatus status) {
  static constexpr const char* names[] = {"ok",
                                          "missing",
                                          "not finite",
                                          "zero",
                                          "negative eigenvalue",
                                          "no convergence",
                                          "unsupported type",
                                          "bad shape",
                                          "skipped"};
  const auto index = static_cast<std::size_t>(status);
  return index < std::size(names) ? names[index] : "unknown";
}

/// Values of a table by path and flat index; NaN if absent.
double value(const Spectrum& spectrum, const std::string& path, std::size_t at) {
  const SpectrumTable* table = spectrum.find(path);
  return table == nullptr || at >= table->values.size() ? nan : table->values[at];
}

std::string scientific(double number) {
  return std::isnan(number) ? "–" : fmt::format("{:.2e}", number);
}

std::string layer_table(const Spectrum& s) {
  TextTable table({"layer", "", "sigma_max", "|W|_F", "stable", "rel", "PR", "rel", "erank", "rel",
                   "k90", "rel", "floor", "status"},
                  "rlrrrrrrrrrrrl");
  const std::size_t projections = s.projections.size();
  for (std::size_t row = 0; row < s.layers.size(); ++row) {
    for (std::size_t p = 0; p < projections; ++p) {
      const std::size_t at = row * projections + p;
      const auto layer = [&](const char* metric) {
        return value(s, std::string("metrics/layer/") + metric, at);
      };
      const auto k90 = [&](const char* metric) {
        return value(s, std::string("metrics/layer/") + metric, at * 4 + 1);
      };
      table.add({p == 0 ? fmt::format("{}", s.layers[row]) : "", s.projections[p],
                 number(layer("sigma_max"), 2), number(std::sqrt(layer("fro2")), 1),
                 number(layer("stable_rank"), 1), number(layer("stable_rank_rel"), 2),
                 number(layer("participation_ratio"), 0),
                 number(layer("participation_ratio_rel"), 2), number(layer("erank_energy"), 0),
                 number(layer("erank_energy_rel"), 2), number(k90("energy_rank"), 0),
                 number(k90("energy_rank_rel"), 2), scientific(value(s, "metrics/noise_floor", at)),
                 at < s.status.size() ? status_name(s.status[at]) : ""});
    }
  }
  return table.text();
}

std::string asymmetry_table(const Spectrum& s) {
  TextTable table(
      {"layer", "A_KV", "heads q25", "median", "q75", "A_QKV", "|W_K|/|W_V|", "sigma_K/sigma_V"},
      "rrrrrrrr");
  for (std::size_t row = 0; row < s.layers.size(); ++row) {
    const auto asymmetry = [&](const char* name) {
      return value(s, std::string("asymmetry/") + name, row);
    };
    table.add({fmt::format("{}", s.layers[row]), number(asymmetry("A_KV"), 3),
               number(asymmetry("A_KV_head_q25"), 3), number(asymmetry("A_KV_head_median"), 3),
               number(asymmetry("A_KV_head_q75"), 3), number(asymmetry("A_QKV"), 3),
               number(asymmetry("norm_ratio"), 2), number(asymmetry("sigma_ratio"), 2)});
  }
  return table.text();
}

std::string extreme_heads(const Spectrum& s) {
  const SpectrumTable* heads = s.find("asymmetry/A_KV_head");
  if (heads == nullptr || s.kv_heads <= 0) {
    return "";
  }
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < heads->values.size(); ++i) {
    if (std::isfinite(heads->values[i])) {
      order.push_back(i);
    }
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return heads->values[a] > heads->values[b];
  });
  const auto width = static_cast<std::size_t>(s.kv_heads);
  const auto place = [&](std::size_t i) {
    return fmt::format("L{} h{} {:+.3f}", s.layers[i / width], i % width, heads->values[i]);
  };
  const std::size_t shown = std::min<std::size_t>(10, order.size());
  TextTable table({"largest", "smallest"}, "ll");
  for (std::size_t i = 0; i < shown; ++i) {
    table.add({place(order[i]), place(order[order.size() - 1 - i])});
  }
  return shown == 0 ? ""
                    : fmt::format("\nKV HEADS BY A_KV   spread between Gaussian heads: {}\n",
                                  number(value(s, "asymmetry/A_KV_head_null_sd", 0), 4)) +
                          table.text();
}

std::string problems(const Spectrum& s) {
  std::string text;
  for (std::size_t at = 0; at < s.status.size() && at < s.message.size(); ++at) {
    if (s.status[at] != SpectrumStatus::ok) {
      text += fmt::format("  L{} {}: {}: {}\n", s.layers[at / s.projections.size()],
                          s.projections[at % s.projections.size()], status_name(s.status[at]),
                          s.message[at]);
    }
  }
  return text.empty() ? "" : "\nPROBLEMS\n" + text;
}

std::string verdict(const Spectrum& s) {
  const SpectrumTable* asymmetry = s.find("asymmetry/A_KV");
  if (asymmetry == nullptr) {
    return "";
  }
  std::size_t known = 0;
  std::size_t dispersed = 0;
  for (const double a : asymmetry->values) {
    known += std::isfinite(a) ? 1 : 0;
    dispersed += a > 0 ? 1 : 0;
  }
  return fmt::format("  V is the more dispersed factor in {} of {} layers.\n", dispersed, known);
}

}  // namespace

std::string to_text(const Spectrum& spectrum) {
  std::string text = fmt::format(
      "{}   {} layers, {} query heads, {} KV heads of {}, hidden {}, stored as {}\n",
      spectrum.model_name, spectrum.layers.size(), spectrum.query_heads, spectrum.kv_heads,
      spectrum.head_dim, spectrum.hidden_dim, spectrum.weights_dtype);
  text +=
      "\nSPECTRA   of W W^T; rel: over a Gaussian matrix of the same shape; weights, not "
      "activations\n" +
      layer_table(spectrum);
  text += "\nASYMMETRY   A_KV = ln PRrel_V - ln PRrel_K; above 0: V more dispersed than K\n" +
          asymmetry_table(spectrum) + verdict(spectrum);
  return text + extreme_heads(spectrum) + report::product_table(spectrum) +
         report::token_table(spectrum) + report::merging_table(spectrum) +
         report::claims_table(spectrum) + problems(spectrum);
}

std::string to_json(const Spectrum& spectrum) {
  nlohmann::ordered_json root = {{"format", "kvscope.spectrum.table"},
                                 {"version", 1},
                                 {"model", spectrum.model_name},
                                 {"model_hash", spectrum.model_hash},
                                 {"weights_dtype", spectrum.weights_dtype},
                                 {"query_heads", spectrum.query_heads},
                                 {"kv_heads", spectrum.kv_heads},
                                 {"head_dim", spectrum.head_dim},
                                 {"hidden_dim", spectrum.hidden_dim},
                                 {"layers", spectrum.layers},
                                 {"projections", spectrum.projections}};
  for (std::size_t at = 0; at < spectrum.status.size(); ++at) {
    root["status"].push_back(
        {{"layer", spectrum.layers[at / spectrum.projections.size()]},
         {"projection", spectrum.projections[at % spectrum.projections.size()]},
         {"status", status_name(spectrum.status[at])},
         {"message", spectrum.message[at]}});
  }
  for (const auto& [path, table] : spectrum.tables) {
    if (report::is_bulky(path)) {
      continue;
    }
    nlohmann::ordered_json values = nlohmann::ordered_json::array();
    for (const double number : table.values) {
      values.push_back(std::isfinite(number) ? nlohmann::ordered_json(number)
                                             : nlohmann::ordered_json());
    }
    root["tables"][path] = {{"shape", table.shape},
                            {"axes", table.axes},
                            {"units", table.units},
                            {"values", std::move(values)}};
  }
  const auto number_or_null = [](double number) {
    return std::isfinite(number) ? nlohmann::ordered_json(number) : nlohmann::ordered_json();
  };
  root["claims"] = nlohmann::ordered_json::array();
  for (const SpectrumClaim& claim : spectrum.claims) {
    root["claims"].push_back({{"name", claim.name},
                              {"statement", claim.statement},
                              {"statistic", number_or_null(claim.statistic)},
                              {"lo", number_or_null(claim.low)},
                              {"hi", number_or_null(claim.high)},
                              {"p", number_or_null(claim.p)},
                              {"n", claim.count},
                              {"verdict", claim.verdict}});
  }
  return root.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace kvscope
