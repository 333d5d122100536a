#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <limits>

#include "kvscope/core/error.h"
#include "scorers/triattention.h"

namespace kvscope::detail {
namespace {

using Mode = TriSettling::Mode;

/// Slots that compete, as indices.
at::Tensor candidates_of(const Protection& protection) {
  std::vector<std::int64_t> slots;
  for (int slot = 0; slot < protection.tokens(); ++slot) {
    if (!protection.covers(slot)) {
      slots.push_back(slot);
    }
  }
  return at::tensor(slots, at::kLong);
}

/// One layer's scores of query heads over the candidates, in units of their spread, in float64. The
/// parts add up to the whole.
struct Standard {
  at::Tensor whole;  ///< [query_heads, candidates]
  at::Tensor parts;  ///< [3, query_heads, candidates] trigonometric, norm, centre
};

Standard standardised(const TriTerms& raw, const at::Tensor& candidates,
                      const TriSettling& settling) {
  const auto chosen = [&](const at::Tensor& term) {
    return at::index_select(term.cpu(), 1, candidates).to(at::kDouble);
  };
  const at::Tensor trigonometric = chosen(raw.trigonometric);
  const at::Tensor norm = chosen(raw.norm);
  const at::Tensor score = trigonometric.add(norm);
  const std::int64_t count = score.size(1);
  at::Tensor mean = at::zeros_like(score.narrow(1, 0, 1));
  at::Tensor deviation = at::ones_like(mean);
  if (settling.normalise) {
    mean = score.mean(1, /*keepdim=*/true);
    const at::Tensor squares = score.sub(mean).square().sum(1, /*keepdim=*/true);
    if (!settling.sample) {
      deviation = squares.div(static_cast<double>(count)).sqrt().clamp_min(1e-6);
    } else if (count > 1) {
      deviation = squares.div(static_cast<double>(count - 1)).sqrt();
      deviation = deviation.masked_fill(deviation.lt(1e-8), 1.0);
    }
  }
  Standard standard;
  standard.whole = score.sub(mean).div(deviation);
  standard.parts = at::stack({trigonometric.div(deviation), norm.div(deviation),
                              mean.neg().div(deviation).expand_as(score)});
  return standard;
}

/// What the heads along axis `axis` of `whole` make together: the maximum, with the parts of the
/// head that has it, or the mean of all.
Standard together(const Standard& standard, std::int64_t axis, bool mean) {
  if (mean) {
    return {standard.whole.mean(axis), standard.parts.mean(axis + 1)};
  }
  const auto [best, winner] = standard.whole.max(axis, /*keepdim=*/true);
  std::vector<std::int64_t> sizes = winner.sizes().vec();
  sizes.insert(sizes.begin(), standard.parts.size(0));
  const at::Tensor parts =
      standard.parts.gather(axis + 1, winner.unsqueeze(0).expand(sizes)).squeeze(axis + 1);
  return {best.squeeze(axis), parts};
}

/// [rows, candidates] as [rows, slots] float32, NaN where slots are protected.
at::Tensor spread(const at::Tensor& values, const at::Tensor& candidates, std::int64_t slots) {
  std::vector<std::int64_t> sizes = values.sizes().vec();
  sizes.back() = slots;
  at::Tensor wide = at::full(sizes, std::numeric_limits<float>::quiet_NaN(), at::kFloat);
  return wide.index_copy_(-1, candidates, values.to(at::kFloat));
}

/// Throws unless what is to be shared stands in the same slots wherever it is shared.
void check_alignment(const SettleRequest& request, bool heads_too) {
  for (const SlotTable& table : request.slots) {
    const SlotTable& first = request.slots.front();
    bool same = table.token == first.token;
    for (int kv_head = 1; heads_too && same && kv_head < table.kv_heads; ++kv_head) {
      for (int slot = 0; same && slot < table.slots; ++slot) {
        same = table.token[table.cell(kv_head, slot)] == table.token[table.cell(0, slot)];
      }
    }
    KVSCOPE_CHECK(same, ErrorCode::unsupported,
                  "layers hold different tokens, so that they cannot share one choice",
                  "triattention", "use mode=per_layer_perhead, or cut with this method alone");
  }
}

/// One answer for all layers: of each KV head's index, or of the whole model.
Standard shared(const std::vector<Standard>& layers, Mode mode) {
  std::vector<at::Tensor> wholes;
  std::vector<at::Tensor> parts;
  for (const Standard& layer : layers) {
    wholes.push_back(layer.whole);
    parts.push_back(layer.parts);
  }
  const Standard all{at::stack(wholes), at::stack(parts, 1)};
  if (mode == Mode::per_head) {
    return together(all, 0, /*mean=*/true);
  }
  // Every token among the k best by its largest score is also among the k best of the head that
  // gives it that score, so the union of the heads' own choices adds nothing.
  const Standard over_layers = together(all, 0, /*mean=*/false);
  const Standard one = together(over_layers, 0, /*mean=*/false);
  return {one.whole.unsqueeze(0).expand_as(over_layers.whole),
          one.parts.unsqueeze(1).expand_as(over_layers.parts)};
}

}  // namespace

std::vector<LayerScores> settle_triattention(const std::vector<TriTerms>& raw,
                                             const TriSettling& settling,
                                             const SettleRequest& request) {
  const at::Tensor candidates = candidates_of(request.protection);
  const std::int64_t slots = request.protection.tokens();
  std::vector<LayerScores> result(raw.size());
  if (candidates.numel() == 0) {
    for (LayerScores& layer : result) {
      layer.scores = at::full({request.kv_heads, slots}, std::numeric_limits<float>::quiet_NaN());
      layer.terms = layer.scores.unsqueeze(0).expand({3, request.kv_heads, slots}).contiguous();
    }
    return result;
  }
  std::vector<Standard> layers;
  for (const TriTerms& terms : raw) {
    const Standard heads = standardised(terms, candidates, settling);
    const std::int64_t group = heads.whole.size(0) / request.kv_heads;
    // In a union every query head speaks for itself; the largest is taken either way.
    const bool mean = settling.group_mean && settling.mode != Mode::union_;
    layers.push_back(together({heads.whole.unflatten(0, {request.kv_heads, group}),
                               heads.parts.unflatten(1, {request.kv_heads, group})},
                              1, mean));
  }
  if (settling.mode != Mode::per_layer_perhead) {
    check_alignment(request, settling.mode == Mode::union_);
    layers.assign(raw.size(), shared(layers, settling.mode));
  }
  for (std::size_t layer = 0; layer < raw.size(); ++layer) {
    result[layer].scores = spread(layers[layer].whole, candidates, slots);
    if (request.terms) {
      result[layer].terms = spread(layers[layer].parts, candidates, slots);
    }
  }
  return result;
}

}  // namespace kvscope::detail
