#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/softmax.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "kvscope/core/error.h"
#include "registry/entry.h"
#include "scorers/compactor.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Sums over the queries of one chunk: [query_heads, length]. `missing` places behind the chunk
/// stand for queries and keys of logit 0.
at::Tensor one_chunk(const at::Tensor& queries, const at::Tensor& keys, std::int64_t missing) {
  const std::int64_t kv_heads = keys.size(0);
  const at::Tensor grouped = queries.unflatten(0, {kv_heads, queries.size(0) / kv_heads});
  const at::Tensor logits =
      grouped.matmul(keys.unsqueeze(1).transpose(2, 3)).flatten(0, 1);  // [query_heads, c, c]
  if (missing == 0) {
    return at::softmax(logits, -1).sum(1);
  }
  const at::Tensor most = logits.amax(-1, /*keepdim=*/true).clamp_min(0);
  const at::Tensor weight = (logits - most).exp();
  const at::Tensor sum =
      weight.sum(-1, /*keepdim=*/true) + (-most).exp() * static_cast<double>(missing);
  const auto whole = static_cast<double>(keys.size(1) + missing);
  return (weight / sum).sum(1) + static_cast<double>(missing) / whole;
}

class NonCausal : public Scorer {
 public:
  explicit NonCausal(const Arguments& arguments)
      : chunk_(arguments.integer("chunk")), open_tail_(arguments.text("tail") == "open") {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const at::Tensor keys = rows(evidence.keys(Frame::post_rope), tokens);
    const at::Tensor values = rows(evidence.values(), tokens);
    check_finite(values, "value", evidence.moment().layer);
    const at::Tensor mass =
        chunk_attention(query_of_each_slot(evidence), keys, chunk_, open_tail_) *
        values.norm(2, {-1}, /*keepdim=*/false);
    const at::Tensor score = standardised(pool_tokens(mass, 3, "avg"));
    return {score, score.unsqueeze(0)};
  }

  int queries_needed(int prompt_tokens) const override { return prompt_tokens; }

 private:
  int chunk_;
  bool open_tail_;
};

}  // namespace

at::Tensor query_of_each_slot(const LayerEvidence& evidence) {
  const int tokens = live_slots(evidence);
  KVSCOPE_CHECK(tokens == evidence.moment().tokens_seen, ErrorCode::unsupported,
                fmt::format("attention inside chunks needs the query of each of {} slots, but the "
                            "cache was cut before, and {} tokens were seen",
                            tokens, evidence.moment().tokens_seen),
                fmt::format("layer {}", evidence.moment().layer),
                "use the method without a cadence: one cut after the prompt");
  return evidence.queries(tokens);
}

at::Tensor chunk_attention(const at::Tensor& queries, const at::Tensor& keys, int chunk,
                           bool open_tail) {
  const std::int64_t tokens = keys.size(1);
  std::vector<at::Tensor> sums;
  for (std::int64_t first = 0; first < tokens; first += chunk) {
    const std::int64_t length = std::min<std::int64_t>(chunk, tokens - first);
    sums.push_back(one_chunk(queries.narrow(1, first, length), keys.narrow(1, first, length),
                             open_tail ? chunk - length : 0));
  }
  return reduce_group(at::cat(sums, 1), static_cast<int>(keys.size(0)), "mean");
}

PieceEntry non_causal_entry() {
  PieceEntry entry;
  entry.info.name = "non_causal";
  entry.info.summary =
      "keeps what receives attention inside its own chunk of the prompt, from later and earlier "
      "queries alike, times the value's norm";
  entry.info.paper =
      "Chari and Van Durme 2025 (Compactor), arXiv:2507.08143; kvpress NonCausalAttnPress";
  entry.info.departures =
      "kvpress's form: logits are not scaled, and the places that the last chunk lacks count with "
      "logit 0 (tail=closed: they do not, as in the authors' engine); for the cut after the "
      "prompt, "
      "while every token still has its query";
  entry.info.scope = "layer";
  entry.info.parameters = {
      integer_parameter("chunk", 256, "1..", "tokens", "attention reaches farther"),
      choice_parameter("tail", "open|closed", "whether places behind the last token take part")};
  entry.info.terms = {{"chunk_attention", "standard deviations over the layer"}};
  entry.info.combine = "chunk_attention";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<NonCausal>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
