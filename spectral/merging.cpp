#include "kvscope/spectral/merging.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "merge_groups.h"
#include "tables.h"

namespace kvscope {
namespace {

using spectral::MergeGroup;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// Rows [kv_heads, tokens, channels] of one layer.
std::vector<float> read_rows(const CaptureReader& capture, int layer, const char* name, int heads,
                             int tokens, int channels) {
  const std::string dataset = fmt::format("layers/{:03}/{}", layer, name);
  KVSCOPE_CHECK(capture.has(dataset), ErrorCode::missing_data,
                "the capture holds no keys and values", "/" + dataset,
                "capture again with --profile qkv or full");
  std::vector<float> rows(static_cast<std::size_t>(heads) * static_cast<std::size_t>(tokens) *
                          static_cast<std::size_t>(channels));
  capture.read(dataset, {0, 0, 0}, {heads, tokens, channels}, std::span<float>(rows));
  return rows;
}

/// sum_i |y_i - m|^2 and sum_i |y_i|^2 over the members of a group.
struct Loss {
  double lost = 0;
  double energy = 0;
};

Loss actual_loss(const MergeGroup& group, const std::vector<float>& rows, std::size_t head_row,
                 const float* finished, int channels) {
  const auto width = static_cast<std::size_t>(channels);
  const auto row = [&](int token) {
    return rows.data() + (head_row + static_cast<std::size_t>(token)) * width;
  };
  std::vector<double> merged(width, 0.0);
  for (const auto& [token, weight] : group.weights) {
    for (std::size_t i = 0; i < width; ++i) {
      merged[i] += weight * static_cast<double>(row(token)[i]);
    }
  }
  if (finished != nullptr) {
    std::copy(finished, finished + width, merged.begin());
  }
  Loss loss;
  for (const int token : group.members) {
    for (std::size_t i = 0; i < width; ++i) {
      const auto y = static_cast<double>(row(token)[i]);
      loss.lost += (y - merged[i]) * (y - merged[i]);
      loss.energy += y * y;
    }
  }
  return loss;
}

/// The same with y_i . y_j replaced by beta + (1 - beta) rhobar^|i-j|, energy 1 a token.
Loss expected_loss(const MergeGroup& group, double beta, double rhobar) {
  const auto product = [&](int a, int b) {
    const double lag = std::abs(a - b);
    const double decay = std::pow(std::abs(rhobar), lag);
    const double sign = rhobar < 0 && (a - b) % 2 != 0 ? -1.0 : 1.0;
    return a == b ? 1.0 : beta + (1 - beta) * sign * decay;
  };
  double square = 0;
  for (const auto& [a, weight_a] : group.weights) {
    for (const auto& [b, weight_b] : group.weights) {
      square += weight_a * weight_b * product(a, b);
    }
  }
  Loss loss;
  for (const int token : group.members) {
    double shared = 0;
    for (const auto& [other, weight] : group.weights) {
      shared += weight * product(token, other);
    }
    loss.lost += 1 - 2 * shared + square;
    loss.energy += 1;
  }
  return loss;
}

/// The tables of one side (keys or values).
class Side {
 public:
  Side(const std::string& name, const std::string& side, const std::string& corpus, int layers,
       int heads, Spectrum& spectrum)
      : heads_(heads),
        beta_(need(spectrum, corpus + "/" + side + "/beta")),
        rhobar_(need(spectrum, corpus + "/" + side + "/rhobar")),
        actual_(table(spectrum, name + "/" + side + "/actual", layers,
                      "share of the energy of merged tokens that merging lost",
                      "sum |y_i - m|^2 / sum |y_i|^2")),
        predicted_(table(spectrum, name + "/" + side + "/predicted", layers,
                         "the same as the spectra and adjacent moments predict",
                         "y_i . y_j -> beta + (1 - beta) rhobar^|i-j|")) {}

  void add(std::size_t place, const std::vector<MergeGroup>& groups, const std::vector<float>& rows,
           std::size_t head_row, int channels, const LayerDecision* finished) {
    Loss actual;
    Loss expected;
    for (const MergeGroup& group : groups) {
      const float* row =
          finished != nullptr && group.key_row >= 0
              ? finished->key_rows.data() +
                    static_cast<std::ptrdiff_t>(group.key_row) * finished->key_row_dim
              : nullptr;
      const Loss a = actual_loss(group, rows, head_row, row, channels);
      const Loss e = expected_loss(group, beta_.values[place], rhobar_.values[place]);
      actual.lost += a.lost;
      actual.energy += a.energy;
      expected.lost += e.lost;
      expected.energy += e.energy;
    }
    if (!groups.empty()) {
      actual_.values[place] = actual.lost / actual.energy;
      predicted_.values[place] = expected.lost / expected.energy;
    }
  }

 private:
  static const SpectrumTable& need(const Spectrum& spectrum, const std::string& path) {
    const SpectrumTable* found = spectrum.find(path);
    KVSCOPE_CHECK(found != nullptr, ErrorCode::usage, "the spectrum has no tokens stage", path,
                  "give the capture with --tokens");
    return *found;
  }
  SpectrumTable& table(Spectrum& spectrum, const std::string& path, int layers,
                       const std::string& long_name, const std::string& formula) const {
    SpectrumTable& made = spectrum.tables["merging/" + path];
    made = spectral::missing_table({layers, heads_}, {"layer", "kv_head"}, "1", long_name, formula);
    return made;
  }

  int heads_;
  const SpectrumTable& beta_;
  const SpectrumTable& rhobar_;
  SpectrumTable& actual_;
  SpectrumTable& predicted_;
};

}  // namespace

void add_merge_loss(const CaptureReader& capture, const Decision& decision,
                    const std::string& corpus, const std::string& name, Spectrum& spectrum) {
  KVSCOPE_CHECK(decision.capture_hash == capture.index().capture_hash, ErrorCode::usage,
                "the decision was made on another capture", decision.method,
                "give the decision of this capture");
  KVSCOPE_CHECK(decision.kv_heads == spectrum.kv_heads && decision.head_dim == spectrum.head_dim,
                ErrorCode::usage, "the decision has other heads than the spectrum",
                decision.method);
  const bool rotated = decision.form.keys == Frame::post_rope;
  const int layers = static_cast<int>(spectrum.layers.size());
  const int heads = spectrum.kv_heads;
  const int channels = spectrum.head_dim;
  const int tokens = std::min(decision.tokens, capture.index().prompt_tokens);
  const std::string group = "homogeneity/" + corpus;
  Side keys(name, "k", group + (rotated ? "_post_rope" : ""), layers, heads, spectrum);
  Side values(name, "v", group, layers, heads, spectrum);
  SpectrumTable& merged = spectrum.tables["merging/" + name + "/merged_tokens"];
  merged = spectral::missing_table({layers, heads}, {"layer", "kv_head"}, "tokens",
                                   "tokens that share a slot with another", "count");
  spectrum.attributes["merging/" + name] = {{"method", decision.method},
                                            {"keep", decision.keep},
                                            {"corpus", corpus},
                                            {"rope", std::string(rotated ? "post" : "pre")}};
  for (const LayerDecision& layer : decision.layers) {
    const auto found = std::find(spectrum.layers.begin(), spectrum.layers.end(), layer.layer);
    if (found == spectrum.layers.end() || layer.edges.empty()) {
      continue;
    }
    const auto row = static_cast<std::size_t>(found - spectrum.layers.begin());
    const std::vector<float> k = read_rows(capture, layer.layer, rotated ? "keys" : "keys_pre_rope",
                                           heads, tokens, channels);
    const std::vector<float> v = read_rows(capture, layer.layer, "values", heads, tokens, channels);
    for (int head = 0; head < heads; ++head) {
      const std::size_t place =
          row * static_cast<std::size_t>(heads) + static_cast<std::size_t>(head);
      const auto head_row = static_cast<std::size_t>(head) * static_cast<std::size_t>(tokens);
      const std::vector<MergeGroup> by_key = spectral::merge_groups(
          layer, head, tokens, &MergeEdge::key_weight, CacheForm::Values::mean);
      const std::vector<MergeGroup> by_value = spectral::merge_groups(
          layer, head, tokens, &MergeEdge::value_weight, decision.form.values);
      keys.add(place, by_key, k, head_row, channels,
               layer.key_row_dim == channels ? &layer : nullptr);
      values.add(place, by_value, v, head_row, channels, nullptr);
      double count = 0;
      for (const MergeGroup& each : by_key) {
        count += static_cast<double>(each.members.size());
      }
      merged.values[place] = count;
    }
  }
}

}  // namespace kvscope
