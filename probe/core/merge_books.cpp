#include "kvscope/core/merge_books.h"

#include <algorithm>
#include <vector>

namespace kvscope {
namespace {

/// One KV head: multiplicities of its tokens' slots over the events.
class HeadBooks {
 public:
  HeadBooks(const LayerDecision& layer, int kv_head, bool counts, MergeBooks& books)
      : layer_(layer),
        kv_head_(kv_head),
        books_(books),
        not_carried_(counts ? books.clamped : books.uncounted),
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
      not_carried_ +=
          layer_.fate[cell] == Fate::merged ? stood - given[static_cast<std::size_t>(token)] : 0;
      books_.evicted += layer_.fate[cell] == Fate::evicted ? stood : 0;
      count_[static_cast<std::size_t>(token)] = 0;
    }
  }

  const LayerDecision& layer_;
  int kv_head_;
  MergeBooks& books_;
  double& not_carried_;  ///< where merged tokens go that no multiplicity carries over
  std::vector<double> count_;
};

void add_head(const LayerDecision& layer, int kv_head, bool counts, int events,
              MergeBooks& books) {
  books.tokens += layer.tokens;
  std::vector<const MergeEdge*> edges;
  for (const MergeEdge& edge : layer.edges) {
    if (edge.kv_head == kv_head && edge.source != edge.target) {
      edges.push_back(&edge);
    }
  }
  std::stable_sort(edges.begin(), edges.end(), [](const MergeEdge* a, const MergeEdge* b) {
    return a->event < b->event;
  });
  HeadBooks(layer, kv_head, counts, books).run(events, edges);
}

}  // namespace

bool counts_merged(const Decision& decision) {
  return std::any_of(
      decision.layers.begin(), decision.layers.end(), [](const LayerDecision& layer) {
        return std::any_of(layer.edges.begin(), layer.edges.end(), [](const MergeEdge& edge) {
          return edge.source != edge.target && edge.count > 0;
        });
      });
}

MergeBooks merge_books(const Decision& decision) {
  MergeBooks books;
  const bool counts = counts_merged(decision);
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      add_head(layer, kv_head, counts, static_cast<int>(decision.events.size()), books);
    }
  }
  return books;
}

MergeBooks merge_books(const Decision& decision, int layer_row, int kv_head, int events) {
  MergeBooks books;
  add_head(decision.layers[static_cast<std::size_t>(layer_row)], kv_head, counts_merged(decision),
           events, books);
  return books;
}

}  // namespace kvscope
