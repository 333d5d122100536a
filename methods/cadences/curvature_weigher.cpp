#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cadences/curvature_blocks.h"
#include "cadences/weighers.h"
#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

constexpr double epsilon = 1e-21;
constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
/// Importances of a chain come from ratios of pair weights, which must stay positive.
constexpr double least_share = 1e-6;

struct PairWeights {
  double left = 0;
  double right = 0;
};

class Curvature final : public PairWeigher {
 public:
  using Variant = CurvatureOptions::Variant;

  explicit Curvature(const CurvatureOptions& options) : options_(options) {}

  KeyGradient gradient() const override {
    return options_.variant == Variant::oracle ? options_.gradient : KeyGradient::none;
  }

  void look(const ChunkView& view) override {
    blocks_.clear();
    for (int kv_head = 0; kv_head < view.evidence.shape().kv_heads; ++kv_head) {
      blocks_.push_back(blocks_of(view, kv_head));
    }
  }

  MergedRun weigh(const ChunkView& view, int kv_head, int first, int count) override {
    CurvatureBlocks& blocks = blocks_[static_cast<std::size_t>(kv_head)];
    MergedRun run;
    if (count == 2) {
      const PairWeights pair = pair_weights(blocks, first, view.layer);
      remark(blocks, first, pair);
      run.weight = {pair.left, pair.right};
    } else {
      run.weight = chain_weights(blocks, first, count, view.layer);
    }
    if (remembers()) {
      merge_history(view, kv_head, first, run.weight);
    }
    return run;
  }

  std::vector<std::pair<std::string, std::int64_t>> remarks() const override {
    return {{"singular_pairs", singular_}, {"extrapolating_pairs", extrapolating_}};
  }

  std::unique_ptr<PairWeigher> clone() const override { return std::make_unique<Curvature>(*this); }
  bool remembers() const override { return options_.variant == Variant::code && options_.history; }

 private:
  CurvatureBlocks blocks_of(const ChunkView& view, int kv_head) {
    switch (options_.variant) {
      case Variant::paper:
        return options_.per_query ? hessian_norms_per_query(view, kv_head)
                                  : hessian_norms(view, kv_head);
      case Variant::oracle:
        return gradient_blocks(view, kv_head);
      case Variant::code:
        break;
    }
    CurvatureBlocks blocks = residual_proxy(view, kv_head, options_.mean_values);
    if (remembers()) {
      smooth(view, kv_head, blocks.diagonal);
    }
    blocks.cross = factorised_cross(blocks.alpha, blocks.diagonal);
    return blocks;
  }

  /// The history of one layer and KV head, by token.
  std::vector<double>& history(int layer, int kv_head, int kv_heads) {
    const auto index = static_cast<std::size_t>(layer * kv_heads + kv_head);
    if (history_.size() <= index) {
      history_.resize(index + 1);
    }
    return history_[index];
  }

  /// Running mean over chunks; new slots start with what they are worth now.
  void smooth(const ChunkView& view, int kv_head, std::vector<double>& diagonal) {
    const SlotTable& table = view.evidence.slots();
    std::vector<double>& past = history(view.layer, kv_head, table.kv_heads);
    const double n = std::max(1, view.chunk);
    for (int slot = 0; slot < view.mid(); ++slot) {
      const auto token =
          static_cast<std::size_t>(table.token[table.cell(kv_head, view.sink + slot)]);
      if (past.size() <= token) {
        past.resize(token + 1, unknown);
      }
      double& here = diagonal[static_cast<std::size_t>(slot)];
      if (!std::isnan(past[token])) {
        here = here / n + past[token] * (n - 1) / n;
      }
      past[token] = here;
    }
  }

  void merge_history(const ChunkView& view, int kv_head, int first,
                     const std::vector<double>& weight) {
    const SlotTable& table = view.evidence.slots();
    const std::vector<double>& diagonal = blocks_[static_cast<std::size_t>(kv_head)].diagonal;
    double merged = 0;
    for (std::size_t member = 0; member < weight.size(); ++member) {
      merged +=
          weight[member] * weight[member] * diagonal[static_cast<std::size_t>(first) + member];
    }
    const int token = table.token[table.cell(kv_head, view.sink + first)];
    history(view.layer, kv_head, table.kv_heads)[static_cast<std::size_t>(token)] = merged;
  }

  PairWeights pair_weights(const CurvatureBlocks& blocks, int pair, int layer) const {
    const auto i = static_cast<std::size_t>(pair);
    const double left = blocks.diagonal[i] - blocks.cross[i];
    const double right = blocks.diagonal[i + 1] - blocks.cross[i];
    const double total = left + right + (options_.variant == Variant::code ? epsilon : 0.0);
    PairWeights weights{left / total, right / total};
    if (total == 0) {
      weights = {0.5, 0.5};
    }
    if (options_.safe) {
      weights.left = std::isfinite(weights.left) ? std::clamp(weights.left, 0.0, 1.0) : 0.5;
      weights.right = 1 - weights.left;
    }
    KVSCOPE_CHECK(std::isfinite(weights.left) && std::isfinite(weights.right), ErrorCode::failed,
                  fmt::format("the weights of pair {} are not numbers", pair),
                  fmt::format("layer {}", layer), "use kvslimmer:safe=true, or check the weights");
    return weights;
  }

  void remark(const CurvatureBlocks& blocks, int pair, const PairWeights& weights) {
    const auto i = static_cast<std::size_t>(pair);
    if (!blocks.alpha.empty() && std::abs(1 - 2 * (blocks.alpha[i] + blocks.alpha[i + 1])) < 1e-3) {
      ++singular_;
    }
    extrapolating_ += weights.left < 0 || weights.left > 1 ? 1 : 0;
  }

  /// Weights of a whole run: each pair says how much its right slot counts against its left one,
  /// and the ratios are multiplied along the run.
  std::vector<double> chain_weights(const CurvatureBlocks& blocks, int first, int count,
                                    int layer) const {
    std::vector<double> log_importance = {0.0};
    for (int member = 0; member + 1 < count; ++member) {
      const double left = std::clamp(pair_weights(blocks, first + member, layer).left, least_share,
                                     1 - least_share);
      log_importance.push_back(log_importance.back() + std::log((1 - left) / left));
    }
    const double most = *std::max_element(log_importance.begin(), log_importance.end());
    double total = 0;
    for (double& value : log_importance) {
      value = std::exp(value - most);
      total += value;
    }
    for (double& value : log_importance) {
      value /= total;
    }
    return log_importance;
  }

  CurvatureOptions options_;
  std::vector<CurvatureBlocks> blocks_;       ///< [kv_heads] of the layer at hand
  std::vector<std::vector<double>> history_;  ///< [layers * kv_heads][tokens]
  std::int64_t singular_ = 0;
  std::int64_t extrapolating_ = 0;
};

}  // namespace

std::unique_ptr<PairWeigher> make_curvature(const CurvatureOptions& options) {
  return std::make_unique<Curvature>(options);
}

}  // namespace kvscope::detail
