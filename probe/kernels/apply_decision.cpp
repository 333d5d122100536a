#include "kvscope/kernels/apply_decision.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gather.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kvscope/core/error.h"
#include "low_bit_rows.h"

namespace kvscope {
namespace {

constexpr const char* where = "apply_decision";

/// Whether a token still holds its slot once `event` (-1: every event) has happened.
bool stays(const LayerDecision& decision, int kv_head, int token, int event) {
  const std::size_t cell = decision.cell(kv_head, token);
  const std::uint32_t removed = decision.removed_at[cell];
  return decision.fate[cell] == Fate::kept || decision.fate[cell] == Fate::skipped ||
         removed == alive || (event >= 0 && removed > static_cast<std::uint32_t>(event));
}

void check_sizes(const LayerCache& cache, const LayerDecision& decision, const CacheForm& form) {
  const SlotTable& slots = cache.slots;
  KVSCOPE_CHECK(cache.keys.defined() && cache.values.defined() && cache.keys.dim() == 3 &&
                    cache.values.dim() == 3 && cache.keys.size(0) == slots.kv_heads &&
                    cache.values.size(0) == slots.kv_heads && cache.keys.size(1) == slots.slots &&
                    cache.values.size(1) == slots.slots,
                ErrorCode::usage, "keys, values and slot table differ in sizes", where);
  KVSCOPE_CHECK(
      decision.kv_heads == slots.kv_heads, ErrorCode::usage,
      fmt::format("the decision has {} KV heads, the cache {}", decision.kv_heads, slots.kv_heads),
      where);
  const std::size_t cells = decision.cell(decision.kv_heads, 0);
  KVSCOPE_CHECK(decision.fate.size() == cells && decision.removed_at.size() == cells,
                ErrorCode::usage, "the decision's fates do not cover its tokens", where);
  KVSCOPE_CHECK(decision.key_rows.empty() || decision.key_row_dim == cache.keys.size(2),
                ErrorCode::usage, "the decision's key rows have another head_dim", where);
  KVSCOPE_CHECK(form.keys == Frame::post_rope || form.keys == Frame::pre_rope, ErrorCode::usage,
                "unknown frame of keys", where);
  KVSCOPE_CHECK(form.value_bits == 0 || form.value_bits == 4 || form.value_bits == 8,
                ErrorCode::usage, fmt::format("values of {} bits", form.value_bits), where,
                "store them in 4 or 8 bits, or whole");
}

/// Slot of each token in one head, -1 without one. Throws if the table and the decision disagree.
std::vector<int> slot_of_token(const SlotTable& slots, const LayerDecision& decision, int kv_head,
                               int event) {
  std::vector<int> slot(static_cast<std::size_t>(decision.tokens), -1);
  int previous = -1;
  for (int s = 0; s < slots.length[static_cast<std::size_t>(kv_head)]; ++s) {
    const int token = slots.token[slots.cell(kv_head, s)];
    KVSCOPE_CHECK(
        token > previous && token < decision.tokens, ErrorCode::usage,
        fmt::format("slot {} of KV head {} holds token {}, which the decision over {} tokens "
                    "does not cover in this order",
                    s, kv_head, token, decision.tokens),
        where, "decide on the cache as it is now");
    const std::uint32_t removed = decision.removed_at[decision.cell(kv_head, token)];
    KVSCOPE_CHECK(
        event < 0 || removed >= static_cast<std::uint32_t>(event), ErrorCode::usage,
        fmt::format("token {} of KV head {} left at event {} but still holds a slot at {}", token,
                    kv_head, removed, event),
        where, "apply the events in order, each once");
    slot[static_cast<std::size_t>(token)] = s;
    previous = token;
  }
  for (int token = 0; token < decision.tokens; ++token) {
    KVSCOPE_CHECK(
        slot[static_cast<std::size_t>(token)] >= 0 || !stays(decision, kv_head, token, event),
        ErrorCode::usage,
        fmt::format("token {} of KV head {} is to stay but holds no slot: the slot table is "
                    "not the one that was decided on",
                    token, kv_head),
        where, "decide on the cache as it is now");
  }
  return slot;
}

/// Rows of a cache in float32 on the host, to fold into.
struct Rows {
  at::Tensor tensor;
  std::int64_t stride = 0;
  std::int64_t dim = 0;
  std::int64_t slots = 0;

  explicit Rows(const at::Tensor& source)
      : tensor(source.to(at::kCPU, at::kFloat).clone(at::MemoryFormat::Contiguous)),
        stride(tensor.size(2)),
        dim(tensor.size(2)),
        slots(tensor.size(1)) {}
  float* row(int kv_head, int slot) const {
    return tensor.mutable_data_ptr<float>() + (kv_head * slots + slot) * stride;
  }
};

/// weight * row added into `sum`.
void add_row(const float* row, double weight, std::vector<double>& sum) {
  for (std::size_t c = 0; c < sum.size(); ++c) {
    sum[c] += weight * static_cast<double>(row[c]);
  }
}

/// The edges [begin, end) of one event, KV head and target.
struct Fold {
  const MergeEdge* begin = nullptr;
  const MergeEdge* end = nullptr;
  double own_key = 1;
  double own_value = 1;
  int key_row = -1;
  double count = 0;  ///< multiplicity received
};

Fold make_fold(const MergeEdge* begin, const MergeEdge* end, CacheForm::Values form) {
  Fold fold{begin, end};
  bool own = false;
  double others_key = 0;
  double others_value = 0;
  for (const MergeEdge* edge = begin; edge != end; ++edge) {
    fold.key_row = std::max(fold.key_row, edge->key_row);
    if (edge->source == edge->target) {
      own = true;
      fold.own_key = static_cast<double>(edge->key_weight);
      fold.own_value = static_cast<double>(edge->value_weight);
    } else {
      others_key += static_cast<double>(edge->key_weight);
      others_value += static_cast<double>(edge->value_weight);
      fold.count += static_cast<double>(edge->count);
    }
  }
  if (!own) {
    fold.own_key = 1 - others_key;
    fold.own_value = form == CacheForm::Values::mean ? 1 - others_value : 1;
  }
  return fold;
}

int edge_slot(const std::vector<int>& slot, int token, const MergeEdge& edge) {
  const int found = token >= 0 && token < static_cast<int>(slot.size())
                        ? slot[static_cast<std::size_t>(token)]
                        : -1;
  KVSCOPE_CHECK(
      found >= 0, ErrorCode::usage,
      fmt::format("the merge edge {} -> {} of KV head {} names token {}, which holds no slot",
                  edge.source, edge.target, edge.kv_head, token),
      where, "decide on the cache as it is now");
  return found;
}

/// Folds the edges of one event. All sources are read as they were before the event.
class Folder {
 public:
  Folder(const LayerCache& cache, const LayerDecision& decision, const CacheForm& form)
      : keys_(cache.keys), values_(cache.values), decision_(decision), form_(form) {}

  void fold_event(const std::vector<MergeEdge>& edges, const std::vector<std::vector<int>>& slot,
                  SlotTable& slots) {
    std::vector<Finished> finished;
    for (std::size_t first = 0; first < edges.size();) {
      std::size_t last = first;
      while (last < edges.size() && edges[last].kv_head == edges[first].kv_head &&
             edges[last].target == edges[first].target) {
        ++last;
      }
      const Fold fold = make_fold(edges.data() + first, edges.data() + last, form_.values);
      finished.push_back(fold_target(fold, slot[static_cast<std::size_t>(edges[first].kv_head)]));
      first = last;
    }
    for (const Finished& target : finished) {
      std::copy(target.key.begin(), target.key.end(), keys_.row(target.kv_head, target.slot));
      std::copy(target.value.begin(), target.value.end(), values_.row(target.kv_head, target.slot));
      float& multiplicity = slots.multiplicity[slots.cell(target.kv_head, target.slot)];
      multiplicity = static_cast<float>(static_cast<double>(multiplicity) + target.count);
    }
  }

  const at::Tensor& keys() const { return keys_.tensor; }
  const at::Tensor& values() const { return values_.tensor; }

 private:
  struct Finished {
    int kv_head = 0;
    int slot = 0;
    double count = 0;
    std::vector<float> key;
    std::vector<float> value;
  };

  Finished fold_target(const Fold& fold, const std::vector<int>& slot) const {
    const MergeEdge& first = *fold.begin;
    Finished finished;
    finished.kv_head = first.kv_head;
    finished.slot = edge_slot(slot, first.target, first);
    finished.count = fold.count;
    std::vector<double> key(static_cast<std::size_t>(keys_.dim), 0.0);
    std::vector<double> value(static_cast<std::size_t>(values_.dim), 0.0);
    add_row(keys_.row(first.kv_head, finished.slot), fold.own_key, key);
    add_row(values_.row(first.kv_head, finished.slot), fold.own_value, value);
    for (const MergeEdge* edge = fold.begin; edge != fold.end; ++edge) {
      if (edge->source != edge->target) {
        const int source = edge_slot(slot, edge->source, *edge);
        add_row(keys_.row(edge->kv_head, source), static_cast<double>(edge->key_weight), key);
        add_row(values_.row(edge->kv_head, source), static_cast<double>(edge->value_weight), value);
      }
    }
    finished.key.assign(key.begin(), key.end());
    finished.value.assign(value.begin(), value.end());
    if (fold.key_row >= 0) {
      const std::size_t at = static_cast<std::size_t>(fold.key_row) * finished.key.size();
      KVSCOPE_CHECK(at + finished.key.size() <= decision_.key_rows.size(), ErrorCode::usage,
                    fmt::format("a merge edge names key row {}, which the decision does not have",
                                fold.key_row),
                    where);
      std::copy_n(decision_.key_rows.begin() + static_cast<std::ptrdiff_t>(at), finished.key.size(),
                  finished.key.begin());
    }
    return finished;
  }

  Rows keys_;
  Rows values_;
  const LayerDecision& decision_;
  CacheForm form_;
};

/// The edges that take part, by (event, KV head, target, source).
std::vector<MergeEdge> edges_of(const LayerDecision& decision, int event) {
  std::vector<MergeEdge> edges;
  for (const MergeEdge& edge : decision.edges) {
    KVSCOPE_CHECK(
        edge.kv_head >= 0 && edge.kv_head < decision.kv_heads, ErrorCode::usage,
        fmt::format("a merge edge names KV head {} of {}", edge.kv_head, decision.kv_heads), where);
    if (event < 0 || edge.event == event) {
      edges.push_back(edge);
    }
  }
  const auto order = [](const MergeEdge& e) {
    return std::array<int, 4>{e.event, e.kv_head, e.target, e.source};
  };
  std::sort(edges.begin(), edges.end(),
            [&](const MergeEdge& a, const MergeEdge& b) { return order(a) < order(b); });
  return edges;
}

/// Positions as the form counts them. By multiplicity: the last token a slot stands for, when the
/// first slot stands for one (AsymKV).
void set_positions(SlotTable& slots, CacheForm::Positions form) {
  for (int head = 0; head < slots.kv_heads && form != CacheForm::Positions::original; ++head) {
    double through = 0;
    for (int s = 0; s < slots.length[static_cast<std::size_t>(head)]; ++s) {
      const std::size_t cell = slots.cell(head, s);
      through += static_cast<double>(slots.multiplicity[cell]);
      const double first = static_cast<double>(slots.multiplicity[slots.cell(head, 0)]);
      slots.position[cell] = form == CacheForm::Positions::cache_index
                                 ? s
                                 : static_cast<std::int32_t>(std::lround(through - first));
    }
  }
}

/// Kept slots of each head, in token order, and the table they make.
struct Gathered {
  std::vector<std::int64_t> source;  ///< [kv_heads, slots]; 0 beyond a head's length
  SlotTable slots;
};

Gathered gather_table(const SlotTable& from, const std::vector<std::vector<int>>& kept) {
  Gathered gathered;
  SlotTable& to = gathered.slots;
  to.kv_heads = from.kv_heads;
  for (const std::vector<int>& head : kept) {
    to.length.push_back(static_cast<int>(head.size()));
    to.slots = std::max(to.slots, static_cast<int>(head.size()));
  }
  const std::size_t cells = to.cell(to.kv_heads, 0);
  gathered.source.resize(cells, 0);
  to.token.resize(cells, -1);
  to.position.resize(cells, -1);
  to.multiplicity.resize(cells, 0.0f);
  for (int head = 0; head < to.kv_heads; ++head) {
    const std::vector<int>& slots = kept[static_cast<std::size_t>(head)];
    for (int s = 0; s < static_cast<int>(slots.size()); ++s) {
      const std::size_t old = from.cell(head, slots[static_cast<std::size_t>(s)]);
      const std::size_t cell = to.cell(head, s);
      gathered.source[cell] = slots[static_cast<std::size_t>(s)];
      to.token[cell] = from.token[old];
      to.position[cell] = from.position[old];
      to.multiplicity[cell] = from.multiplicity[old];
    }
  }
  return gathered;
}

/// rows [kv_heads, slots, dim] at the table's source slots; zero beyond each head's length.
at::Tensor gather_rows(const at::Tensor& rows, Gathered& gathered) {
  const SlotTable& slots = gathered.slots;
  const at::Tensor source =
      at::from_blob(gathered.source.data(), {slots.kv_heads, slots.slots, 1}, at::kLong)
          .to(rows.device());
  at::Tensor taken =
      at::gather(rows, 1, source.expand({slots.kv_heads, slots.slots, rows.size(2)}));
  for (int head = 0; head < slots.kv_heads; ++head) {
    const int length = slots.length[static_cast<std::size_t>(head)];
    if (length < slots.slots) {
      taken.select(0, head).narrow(0, length, slots.slots - length).zero_();
    }
  }
  return taken;
}

}  // namespace

LayerCache apply_decision(const LayerCache& cache, const LayerDecision& decision,
                          const CacheForm& form, int event) {
  check_sizes(cache, decision, form);
  SlotTable slots = cache.slots;
  std::vector<std::vector<int>> slot;
  std::vector<std::vector<int>> kept(static_cast<std::size_t>(slots.kv_heads));
  for (int head = 0; head < slots.kv_heads; ++head) {
    slot.push_back(slot_of_token(slots, decision, head, event));
    for (int s = 0; s < slots.length[static_cast<std::size_t>(head)]; ++s) {
      if (stays(decision, head, slots.token[slots.cell(head, s)], event)) {
        kept[static_cast<std::size_t>(head)].push_back(s);
      }
    }
  }
  at::Tensor keys = cache.keys;
  at::Tensor values = cache.values;
  const std::vector<MergeEdge> edges = edges_of(decision, event);
  if (!edges.empty()) {
    Folder folder(cache, decision, form);
    for (auto first = edges.begin(); first != edges.end();) {
      const auto last = std::find_if(
          first, edges.end(), [&](const MergeEdge& edge) { return edge.event != first->event; });
      folder.fold_event(std::vector<MergeEdge>(first, last), slot, slots);
      first = last;
    }
    keys = folder.keys().to(cache.keys.options());
    values = folder.values().to(cache.values.options());
  }
  Gathered gathered = gather_table(slots, kept);
  set_positions(gathered.slots, form.positions);
  LayerCache smaller;
  smaller.keys = gather_rows(keys, gathered);
  smaller.values = gather_rows(values, gathered);
  if (form.value_bits > 0) {
    smaller.values = detail::low_bit_rows(smaller.values, form.value_bits);
  }
  smaller.slots = std::move(gathered.slots);
  return smaller;
}

}  // namespace kvscope
