#include "metrics/judge.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kvscope/kernels/apply_decision.h"

namespace kvscope::detail {
namespace {

constexpr double certain_attention = 1.0 - 1e-6;  ///< beyond, losing the token has no finite error

at::Tensor read_box(const CaptureReader& capture, const std::string& dataset,
                    const std::vector<std::int64_t>& offset,
                    const std::vector<std::int64_t>& count) {
  at::Tensor values = at::empty(count, at::kFloat);
  capture.read(
      dataset, offset, count,
      std::span(values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel())));
  return values;
}

std::vector<float> to_vector(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kFloat).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

/// 1 where a token holds a slot, [kv_heads, 1, tokens]; tokens after the decision's are kept.
at::Tensor kept_mask(const LayerDecision& layer, std::int64_t tokens) {
  at::Tensor mask = at::empty({layer.kv_heads, 1, tokens}, at::kFloat);
  mask.fill_(1.0);
  float* values = mask.mutable_data_ptr<float>();
  for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
    for (int token = 0; token < layer.tokens; ++token) {
      values[kv_head * tokens + token] =
          layer.removed_at[layer.cell(kv_head, token)] == alive ? 1.0F : 0.0F;
    }
  }
  return mask;
}

}  // namespace

Population choose_population(const CaptureReader& capture, int cut_tokens,
                             const MetricsOptions& options) {
  const CaptureIndex& index = capture.index();
  Population population;
  if (options.queries == MetricsOptions::Queries::none || !index.all_heads() ||
      !capture.has(layer_dataset(index.layers.front(), "keys"))) {
    return population;
  }
  const std::vector<std::int64_t> steps = capture.shape("steps/queries");
  if (options.queries == MetricsOptions::Queries::decode_or_last && !steps.empty() &&
      steps[0] > 0 && index.every_step()) {
    population.decode = true;
    population.first = index.prompt_tokens;
    population.count = static_cast<int>(steps[0]);
    population.name = fmt::format("decode queries of steps 1 to {}", steps[0]);
    return population;
  }
  const int after_cut = index.prompt_tokens - cut_tokens;
  int count = std::min(options.last, index.prompt_tokens - index.first_query);
  population.seen_by_method = after_cut == 0;
  count = after_cut > 0 ? std::min(count, after_cut) : count;
  population.first = index.prompt_tokens - count;
  population.count = count;
  population.name = fmt::format("last {} prompt queries{}", count,
                                population.seen_by_method ? " (seen by the method)" : "");
  return population;
}

LayerJudge::LayerJudge(const CaptureReader& capture, int row, const Population& population,
                       int sinks)
    : shape_(capture.index().shape),
      layer_(capture.index().layers[static_cast<std::size_t>(row)]),
      sinks_(sinks),
      first_position_(population.first),
      queries_(population.count) {
  read(capture, row, population);
  const at::Tensor tokens = at::arange(keys_.size(1), at::kLong).expand({shape_.kv_heads, -1});
  attention_ = at::softmax(logits_on(keys_, tokens), -1);
  output_ = at::bmm(attention_, values_);
  projected_ = at::bmm(output_.view({shape_.query_heads, queries_, shape_.head_dim}), factor_);
  norm_ = at::linalg_vector_norm(projected_, 2, at::IntArrayRef{1, 2});
}

void LayerJudge::read(const CaptureReader& capture, int row, const Population& population) {
  const CaptureIndex& index = capture.index();
  const std::int64_t prompt = index.prompt_tokens;
  const std::int64_t dim = shape_.head_dim;
  const auto layer = [&](const char* name, std::int64_t heads, std::int64_t first,
                         std::int64_t count) {
    return read_box(capture, layer_dataset(layer_, name), {0, first, 0}, {heads, count, dim});
  };
  keys_ = layer("keys", shape_.kv_heads, 0, prompt);
  values_ = layer("values", shape_.kv_heads, 0, prompt);
  factor_ = read_box(capture, layer_dataset(layer_, "output_factor"), {0, 0, 0},
                     {shape_.query_heads, dim, dim});
  at::Tensor queries;
  if (population.decode) {
    const auto steps = [&](const char* name, std::int64_t heads) {
      return read_box(capture, std::string("steps/") + name, {0, row, 0, 0},
                      {queries_, 1, heads, dim})
          .squeeze(1)
          .transpose(0, 1);
    };
    queries = steps("queries", shape_.query_heads);
    keys_ = at::cat({keys_, steps("keys", shape_.kv_heads)}, 1);
    values_ = at::cat({values_, steps("values", shape_.kv_heads)}, 1);
  } else {
    queries = layer("queries", shape_.query_heads, population.first - index.first_query, queries_);
  }
  q_ = queries.reshape({shape_.kv_heads, shape_.group_size() * queries_, dim});
}

/// Masked logits [kv_heads, group * queries, slots] on keys that stand at `tokens` [kv_heads,
/// slots].
at::Tensor LayerJudge::logits_on(const at::Tensor& keys, const at::Tensor& tokens) const {
  at::Tensor logits = at::bmm(q_, keys.transpose(1, 2)) * shape_.attention_scale;
  if (shape_.logit_softcap > 0) {
    logits = at::tanh(logits / shape_.logit_softcap) * shape_.logit_softcap;
  }
  const at::Tensor position =
      (at::arange(queries_, at::kLong) + first_position_).repeat({shape_.group_size()});
  const at::Tensor distance = position.view({1, -1, 1}) - tokens.unsqueeze(1);
  at::Tensor hidden = distance < 0;
  const int window = shape_.window_of(layer_);
  if (window > 0) {
    hidden = hidden | (distance >= window);
  }
  return logits.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
}

at::Tensor LayerJudge::compressed_output(const LayerDecision& layer, const CacheForm& form) const {
  const std::int64_t covered = layer.tokens;
  const std::int64_t tail = keys_.size(1) - covered;
  const LayerCache cache =
      apply_decision({keys_.narrow(1, 0, covered), values_.narrow(1, 0, covered),
                      SlotTable::full(layer.kv_heads, layer.tokens)},
                     layer, form);
  const std::int64_t slots = cache.slots.slots;
  at::Tensor tokens = at::empty({layer.kv_heads, slots + tail}, at::kLong);
  at::Tensor log_multiplicity = at::zeros({layer.kv_heads, 1, slots + tail}, at::kFloat);
  auto* token = tokens.mutable_data_ptr<std::int64_t>();
  float* weight = log_multiplicity.mutable_data_ptr<float>();
  for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
    const int live = cache.slots.length[static_cast<std::size_t>(kv_head)];
    for (int slot = 0; slot < slots; ++slot) {
      const std::size_t cell = cache.slots.cell(kv_head, slot);
      // A cell beyond the head's length stands after every query: hidden.
      *token++ = slot < live ? cache.slots.token[cell] : std::numeric_limits<std::int32_t>::max();
      *weight++ = slot < live ? std::log(cache.slots.multiplicity[cell]) : 0.0F;
    }
    for (std::int64_t later = 0; later < tail; ++later) {
      *token++ = covered + later;
      *weight++ = 0;
    }
  }
  const at::Tensor keys = at::cat({cache.keys, keys_.narrow(1, covered, tail)}, 1);
  const at::Tensor values = at::cat({cache.values, values_.narrow(1, covered, tail)}, 1);
  const at::Tensor attention = at::softmax(logits_on(keys, tokens) + log_multiplicity, -1);
  return at::bmm(attention.nan_to_num_(0.0), values);
}

/// ||a/(1-a) (v - o) L||_F over the queries, relative to ||o L||_F, mean over the group.
at::Tensor LayerJudge::alone_error() const {
  if (alone_.defined()) {
    return alone_;
  }
  const std::int64_t tokens = keys_.size(1);
  const std::int64_t group = shape_.group_size();
  const at::Tensor odds = attention_ / (1.0 - attention_.clamp_max(certain_attention));
  const at::Tensor odds_squared = (odds * odds).view({shape_.query_heads, queries_, tokens});
  const at::Tensor values =
      at::matmul(values_.unsqueeze(1),
                 factor_.view({shape_.kv_heads, group, shape_.head_dim, shape_.head_dim}))
          .view({shape_.query_heads, tokens, shape_.head_dim});
  const at::Tensor distance = projected_.square().sum(-1, true) +
                              values.square().sum(-1).unsqueeze(1) -
                              2.0 * at::bmm(projected_, values.transpose(1, 2));
  const at::Tensor error =
      (odds_squared * distance.clamp_min(0.0)).sum(1).sqrt() / norm_.unsqueeze(1);
  alone_ = error.view({shape_.kv_heads, group, tokens}).mean(1);
  return alone_;
}

LayerJudge::Verdict LayerJudge::judge(const LayerDecision& layer, const CacheForm& form) const {
  Verdict verdict;
  const at::Tensor difference = (compressed_output(layer, form) - output_)
                                    .view({shape_.query_heads, queries_, shape_.head_dim});
  const at::Tensor error =
      at::linalg_vector_norm(at::bmm(difference, factor_), 2, at::IntArrayRef{1, 2});
  verdict.output_error = to_vector(error / norm_);

  const std::int64_t tokens = keys_.size(1);
  const at::Tensor kept = kept_mask(layer, tokens);
  const auto mean_over_queries = [&](const at::Tensor& mass) {
    return to_vector(mass.view({shape_.query_heads, queries_}).mean(1));
  };
  const at::Tensor on_kept = attention_ * kept;
  verdict.retained_mass = mean_over_queries(on_kept.sum(-1));
  const std::int64_t sinks = std::min<std::int64_t>(sinks_, tokens);
  const at::Tensor rest = attention_.narrow(2, sinks, tokens - sinks).sum(-1).clamp_min(1e-30);
  verdict.retained_mass_no_sinks =
      mean_over_queries(on_kept.narrow(2, sinks, tokens - sinks).sum(-1) / rest);
  verdict.lost_error =
      to_vector((alone_error() * (1.0 - kept.squeeze(1))).narrow(1, 0, layer.tokens));
  return verdict;
}

}  // namespace kvscope::detail
