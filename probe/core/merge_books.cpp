#include "kvscope/core/merge_books.h"

#include <algorithm>
#include <vector>

namespace kvscope {
namespace {

/// One KV head: multiplicities of its tokens' slots over the events.
class HeadBooks {
 public:
  HeadBooks(const LayerDecision& layer, int kv_head, MergeBooks& books)
      : layer_(layer),
        kv_head_(kv_head),
        books_(books),
        count_(static_cast<std::size_t>(layer.tokens), 1.0) {}

  void run(int events, const std::vector<const MergeEdge*>& edges) {
    auto edge = edges.begin();
    for (int event = 0; event < events; ++event) {
      const std::vector<double> before = count_;
      std::vector<double> given(count_.size(), 0.0);
      for (; edge != edges.end() && (*edge)->event == event; ++edge) {
        given[static_cast<std::size_t>((*edge)->source)] += static_cast<double>((*edge)->count);
        count_[static_cast<std::size_t>((*edge)->target)] += static_cast<double>((*edge)->count);
      }
      remove(static_cast<std::uint32_t>(event), before, given);
    }
    for (const double count : count_) {
      books_.held += count;
    }
  }

 private:
  void remove(std::uint32_t event, const std::vector<double>& before,
              const std::vector<double>& given) {
    for (int token = 0; token < layer_.tokens; ++token) {
      const std::size_t cell = layer_.cell(kv_head_, token);
      if (layer_.removed_at[cell] != event) {
        continue;
      }
      const double stood = before[static_cast<std::size_t>(token)];
      ++books_.removed_slots;
      books_.dropped_slots += layer_.fate[cell] == Fate::dropped ? 1 : 0;
      books_.dropped += layer_.fate[cell] == Fate::dropped ? stood : 0;
      books_.clamped +=
          layer_.fate[cell] == Fate::merged ? stood - given[static_cast<std::size_t>(token)] : 0;
      books_.evicted += layer_.fate[cell] == Fate::evicted ? stood : 0;
      count_[static_cast<std::size_t>(token)] = 0;
    }
  }

  const LayerDecision& layer_;
  int kv_head_;
  MergeBooks& books_;
  std::vector<double> count_;
};

}  // namespace

MergeBooks merge_books(const Decision& decision) {
  MergeBooks books;
  for (const LayerDecision& layer : decision.layers) {
    books.tokens += static_cast<std::int64_t>(layer.kv_heads) * layer.tokens;
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      std::vector<const MergeEdge*> edges;
      for (const MergeEdge& edge : layer.edges) {
        if (edge.kv_head == kv_head && edge.source != edge.target) {
          edges.push_back(&edge);
        }
      }
      std::stable_sort(edges.begin(), edges.end(),
                       [](const MergeEdge* a, const MergeEdge* b) { return a->event < b->event; });
      HeadBooks(layer, kv_head, books).run(static_cast<int>(decision.events.size()), edges);
    }
  }
  return books;
}

}  // namespace kvscope
