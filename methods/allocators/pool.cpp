#include <fmt/format.h>

#include "allocators/allocators.h"
#include "allocators/candidates.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

/// Sum of one layer's candidate scores, in double and in token order.
double candidate_sum(const std::vector<float>& scores, const Protection& protection, int layer) {
  double sum = 0;
  const int tokens = protection.tokens();
  for (std::size_t cell = 0; cell < scores.size(); ++cell) {
    if (protection.covers(static_cast<int>(cell % static_cast<std::size_t>(tokens)))) {
      continue;
    }
    KVSCOPE_CHECK(scores[cell] >= 0, ErrorCode::usage,
                  fmt::format("pool:normalise divides by the sum of scores, but layer {} has a "
                              "negative score",
                              layer),
                  "method text", "use pool:normalise=false with this scorer");
    sum += scores[cell];
  }
  return sum;
}

class Pool : public Allocator {
 public:
  Pool(Scope scope, bool normalise) : scope_(scope), normalise_(normalise) {}

  Scope scope() const override { return scope_; }

  Allocation allocate(const AllocationRequest& request) const override {
    const int layers = static_cast<int>(request.scores.size());
    const int tokens = request.scope.tokens;
    const int kv_heads = request.scope.kv_heads;
    const Protection& protection = request.protection;
    Allocation allocation(layers, kv_heads, protection.count);
    const std::size_t heads = allocation.slots.size();
    check_pool_size(std::uint64_t{heads} * static_cast<std::uint64_t>(tokens));
    std::vector<std::uint64_t> words;
    words.reserve(heads * static_cast<std::size_t>(tokens - protection.count));
    for (int layer = 0; layer < layers; ++layer) {
      const std::vector<float> scores = comparable(request.scores[static_cast<std::size_t>(layer)],
                                                   protection, request.first_layer + layer);
      for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
        const std::size_t first =
            static_cast<std::size_t>(kv_head) * static_cast<std::size_t>(tokens);
        const std::vector<std::uint64_t> head =
            head_words(scores.data() + first, protection,
                       static_cast<std::uint64_t>(layer) * scores.size() + first);
        words.insert(words.end(), head.begin(), head.end());
      }
    }
    const int each = request.budget.slots_per_head(request.scope) - protection.count;
    const std::size_t pool = heads * static_cast<std::size_t>(each);
    partition_best(words, pool);
    count_heads(words, pool, tokens, allocation.slots);
    return allocation;
  }

 private:
  /// Scores as they are ranked against other layers'.
  std::vector<float> comparable(std::vector<float> scores, const Protection& protection,
                                int layer) const {
    if (!normalise_ || scope_ != Scope::model) {
      return scores;
    }
    const double sum = candidate_sum(scores, protection, layer);
    for (float& score : scores) {
      score = sum > 0 ? static_cast<float>(score / sum) : 0.0F;
    }
    return scores;
  }

  Scope scope_;
  bool normalise_;
};

}  // namespace

std::unique_ptr<Allocator> make_pool(Allocator::Scope scope, bool normalise) {
  return std::make_unique<Pool>(scope, normalise);
}

PieceEntry pool_entry() {
  PieceEntry entry;
  entry.info.name = "pool";
  entry.info.kind = PieceInfo::Kind::allocator;
  entry.info.summary = "one ranking of all candidates of a layer or of the model";
  entry.info.paper = "Mai and Kim 2026 (LaProx, Algorithm 2), arXiv:2605.07234";
  entry.info.departures = "equal scores: the lower layer, then KV head, then token stays";
  entry.info.scope = "model";
  entry.info.parameters = {
      choice_parameter("scope", "model|layer", "what competes for one pool of slots"),
      boolean_parameter(
          "normalise", true,
          "scope=model: a layer's scores are divided by their sum before the ranking")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.allocator = make_pool(
        arguments.text("scope") == "model" ? Allocator::Scope::model : Allocator::Scope::layer,
        arguments.boolean("normalise"));
  };
  return entry;
}

}  // namespace kvscope::detail
