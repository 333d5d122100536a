#include <algorithm>

#include "allocators/allocators.h"
#include "allocators/candidates.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

class AdaKv : public Allocator {
 public:
  explicit AdaKv(double floor) : floor_(floor) {}

  Scope scope() const override { return Scope::layer; }

  Allocation allocate(const AllocationRequest& request) const override {
    const int layers = static_cast<int>(request.scores.size());
    const int kv_heads = request.scope.kv_heads;
    const int each = request.budget.slots_per_head(request.scope);
    Allocation allocation(layers, kv_heads, 0);
    for (int layer = 0; layer < layers; ++layer) {
      Allocation one(1, kv_heads, request.protection.count);
      allocation.guaranteed = request.protection.count + guaranteed_of(request, each);
      share(request, request.scores[static_cast<std::size_t>(layer)], each, one);
      const std::ptrdiff_t at = std::ptrdiff_t{layer} * kv_heads;
      std::copy(one.slots.begin(), one.slots.end(), allocation.slots.begin() + at);
      std::copy(one.floor_only.begin(), one.floor_only.end(), allocation.floor_only.begin() + at);
    }
    return allocation;
  }

 private:
  /// Each head's floor beside the protected tokens.
  int guaranteed_of(const AllocationRequest& request, int each) const {
    // kvpress since 0.5.5: a floor above 0 is at least one token.
    const int least = floor_ > 0 ? std::max(1, static_cast<int>(each * floor_)) : 0;
    return std::clamp(least - request.protection.count, 0, each - request.protection.count);
  }

  /// Gives each head its floor, the best remaining candidates of the layer the rest.
  void share(const AllocationRequest& request, const std::vector<float>& scores, int each,
             Allocation& one) const {
    const Protection& protection = request.protection;
    const int tokens = protection.tokens();
    const int kv_heads = request.scope.kv_heads;
    const int free_slots = each - protection.count;
    const int guaranteed = guaranteed_of(request, each);
    std::vector<std::uint64_t> all;
    std::vector<std::uint64_t> rest;
    for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
      const std::size_t offset =
          static_cast<std::size_t>(kv_head) * static_cast<std::size_t>(tokens);
      check_pool_size(offset + static_cast<std::size_t>(tokens));
      std::vector<std::uint64_t> words = head_words(scores.data() + offset, protection, offset);
      partition_best(words, static_cast<std::size_t>(guaranteed));
      all.insert(all.end(), words.begin(), words.end());
      rest.insert(rest.end(), words.begin() + guaranteed, words.end());
    }
    const std::size_t pool =
        static_cast<std::size_t>(free_slots) * static_cast<std::size_t>(kv_heads);
    std::vector<int> without_floor(static_cast<std::size_t>(kv_heads), 0);
    partition_best(all, pool);
    count_heads(all, pool, tokens, without_floor);
    const std::size_t left =
        pool - static_cast<std::size_t>(guaranteed) * static_cast<std::size_t>(kv_heads);
    partition_best(rest, left);
    count_heads(rest, left, tokens, one.slots);
    for (std::size_t kv_head = 0; kv_head < without_floor.size(); ++kv_head) {
      one.slots[kv_head] += guaranteed;
      one.floor_only[kv_head] = std::max(0, guaranteed - without_floor[kv_head]);
    }
  }

  double floor_;
};

}  // namespace

std::unique_ptr<Allocator> make_adakv(double floor) {
  return std::make_unique<AdaKv>(floor);
}

ParameterInfo floor_parameter() {
  return real_parameter("floor", 0.2, "0..1", "of the uniform share",
                        "a larger part of each head's uniform share is guaranteed; 1 is uniform");
}

PieceEntry adakv_entry() {
  PieceEntry entry;
  entry.info.name = "adakv";
  entry.info.kind = PieceInfo::Kind::allocator;
  entry.info.summary = "one pool of slots for all heads of a layer, with a floor for each head";
  entry.info.paper = "Feng et al. 2024 (Ada-KV), arXiv:2407.11550";
  entry.info.departures =
      "kvpress's form: protected tokens count towards the floor; the authors blend adaptive and "
      "uniform counts";
  entry.info.scope = "layer";
  entry.info.parameters = {floor_parameter()};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.allocator = make_adakv(arguments.real("floor"));
  };
  return entry;
}

}  // namespace kvscope::detail
