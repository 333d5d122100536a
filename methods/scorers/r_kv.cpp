#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "cadences/decode.h"
#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Attention of the newest queries, less how much a key repeats the others.
class RKv : public Scorer {
 public:
  explicit RKv(const Arguments& arguments)
      : window_(arguments.integer("window")),
        pool_(arguments.integer("pool")),
        lambda_(arguments.real("lambda")),
        threshold_(arguments.real("threshold")) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const int candidates = tokens - window_;
    if (candidates <= 0) {
      const at::Tensor none = unscored(evidence, tokens);
      return {none, none.unsqueeze(0).expand({2, none.size(0), tokens})};
    }
    const at::Tensor keys = rows(evidence.keys(Frame::post_rope), tokens);
    check_finite(keys, "key", evidence.moment().layer);
    const at::Tensor attention = lambda_ * importance(evidence, keys, candidates);
    const at::Tensor repeats = (lambda_ - 1) * redundancy(keys).narrow(1, 0, candidates);
    return {widen(attention + repeats, tokens),
            at::stack({widen(attention, tokens), widen(repeats, tokens)})};
  }

  Protection protect(int tokens, int) const override {
    Protection protection(tokens);
    protection.add(tokens - window_, tokens, Reason::observation_window);
    return protection;
  }

 private:
  /// Softmax over the candidates of the group's largest logit, mean over the window, max-pooled:
  /// [kv_heads, candidates].
  at::Tensor importance(const LayerEvidence& evidence, const at::Tensor& keys,
                        int candidates) const {
    const ModelShape& shape = evidence.shape();
    const at::Tensor queries =
        evidence.queries(window_).unflatten(0, {shape.kv_heads, shape.group_size()});
    at::Tensor logits = queries.matmul(keys.narrow(1, 0, candidates).unsqueeze(1).transpose(2, 3)) *
                        shape.attention_scale;
    if (shape.logit_softcap > 0) {
      logits = (logits / shape.logit_softcap).tanh() * shape.logit_softcap;
    }
    return pool_tokens(at::softmax(logits.amax(1), -1).mean(1), pool_, "max");
  }

  /// Softmax over all keys of the mean cosine to the others; of the pairs that resemble each other,
  /// a row's newest does not count: [kv_heads, tokens]. Blocks of rows: the whole matrix is never
  /// there.
  at::Tensor redundancy(const at::Tensor& keys) const {
    constexpr std::int64_t block = 256;
    const std::int64_t tokens = keys.size(1);
    const at::Tensor unit = keys / (keys.norm(2, {-1}, /*keepdim=*/true) + 1e-8);
    const at::Tensor place = at::arange(tokens, keys.options().dtype(at::kLong));
    at::Tensor sum = at::zeros({keys.size(0), tokens}, keys.options());
    for (std::int64_t first = 0; first < tokens; first += block) {
      const std::int64_t count = std::min(block, tokens - first);
      at::Tensor cosine = unit.narrow(1, first, count).matmul(unit.transpose(1, 2));
      const at::Tensor self = place.narrow(0, first, count).unsqueeze(1) == place;
      cosine.masked_fill_(self, 0);
      // The largest column above the threshold; column 0 where there is none, as in the reference.
      const at::Tensor newest =
          at::where(cosine > threshold_, place, at::zeros({}, place.options())).amax(-1, true);
      cosine.scatter_(-1, newest, 0);
      sum.add_(cosine.sum(1));
    }
    return at::softmax(sum / static_cast<double>(tokens), -1);
  }

  int window_;
  int pool_;
  double lambda_;
  double threshold_;
};

}  // namespace

PieceEntry r_kv_entry() {
  PieceEntry entry;
  entry.info.name = "r_kv";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary =
      "attention of the newest queries less how much a key repeats the others; cuts the prompt and "
      "then every 128 tokens while decoding";
  entry.info.paper = "Cai et al. 2025 (R-KV), arXiv:2505.24133";
  entry.info.departures =
      "the authors' code: lambda 0.07 (paper 0.1), of a row's similar keys only the newest is "
      "spared, and key 0 where none is similar; a sliding window of the model is not applied to "
      "the attention part; not at newline tokens";
  entry.info.scope = "layer";
  entry.info.expands_to = "r_kv scores | decode:trigger=strict,first_cut=prefill_end";
  entry.info.parameters = {
      integer_parameter("window", 8, "1..", "queries",
                        "more of the newest queries vote, and more of the newest tokens stay"),
      integer_parameter("pool", 7, "1.., odd", "tokens", "votes spread over more neighbours"),
      real_parameter("lambda", 0.07, "0..1", "", "attention weighs more, redundancy less"),
      real_parameter("threshold", 0.5, "-1..1", "cosine", "fewer keys count as similar")};
  DecodeDefaults defaults;
  defaults.triggers = "strict|slack|interval|since_cut";
  defaults.first_cuts = "prefill_end|trigger";
  for (ParameterInfo& parameter : decode_parameters(defaults)) {
    entry.info.parameters.push_back(std::move(parameter));
  }
  entry.info.terms = {{"importance", "probability, times lambda"},
                      {"redundancy", "probability, times lambda - 1"}};
  entry.info.combine = "importance + redundancy";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<RKv>(arguments);
    parts.cadence = make_decode(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
