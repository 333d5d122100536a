#include "decide/slots.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// A plane [rows, kv_heads, slots] spread over tokens: NaN where no slot stands for a token.
std::vector<float> spread(const std::vector<float>& plane, const SlotTable& slots, int tokens) {
  const std::size_t cells = static_cast<std::size_t>(slots.kv_heads * slots.slots);
  const std::size_t rows = cells == 0 ? 0 : plane.size() / cells;
  const std::size_t wide =
      static_cast<std::size_t>(slots.kv_heads) * static_cast<std::size_t>(tokens);
  std::vector<float> result(rows * wide, nan);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const std::size_t kv_head = cell / static_cast<std::size_t>(slots.slots);
      const auto token = static_cast<std::size_t>(slots.token[cell]);
      result[row * wide + kv_head * static_cast<std::size_t>(tokens) + token] =
          plane[row * cells + cell];
    }
  }
  return result;
}

void add_edges(const LayerDecision& cut, const CutPlace& place, LayerDecision& whole) {
  const int first_row =
      whole.key_row_dim > 0 ? static_cast<int>(whole.key_rows.size()) / whole.key_row_dim : 0;
  for (MergeEdge edge : cut.edges) {
    edge.source = place.slots.token[place.slots.cell(edge.kv_head, edge.source)];
    edge.target = place.slots.token[place.slots.cell(edge.kv_head, edge.target)];
    edge.event = place.event;
    edge.key_row += edge.key_row >= 0 ? first_row : 0;
    whole.edges.push_back(edge);
  }
  whole.key_rows.insert(whole.key_rows.end(), cut.key_rows.begin(), cut.key_rows.end());
  whole.key_row_dim = std::max(whole.key_row_dim, cut.key_row_dim);
}

}  // namespace

bool is_full(const SlotTable& slots, int kv_heads, int tokens) {
  return slots.kv_heads == kv_heads && slots.unmerged() &&
         std::all_of(slots.length.begin(), slots.length.end(),
                     [tokens](int length) { return length == tokens; });
}

void check_even(const SlotTable& slots, int kv_heads, int count, int layer) {
  KVSCOPE_CHECK(slots.kv_heads == kv_heads && slots.slots == count && slots.uniform(),
                ErrorCode::unsupported,
                fmt::format("the cache was cut to different sizes, and cannot be cut again: {} "
                            "slots here, {} in layer 0",
                            slots.slots, count),
                fmt::format("layer {}", layer),
                "give every layer and KV head the same: the allocator 'uniform'");
}

Protection over_slots(const Protection& tokens, const SlotTable& slots, int layer) {
  Protection result(slots.slots);
  for (int slot = 0; slot < slots.slots; ++slot) {
    const auto reason_in = [&](int kv_head) {
      return tokens.reason[static_cast<std::size_t>(slots.token[slots.cell(kv_head, slot)])];
    };
    if (reason_in(0) != Reason::score) {
      result.add(slot, slot + 1, reason_in(0));
    }
    for (int kv_head = 1; kv_head < slots.kv_heads; ++kv_head) {
      KVSCOPE_CHECK(
          reason_in(kv_head) == reason_in(0), ErrorCode::unsupported,
          fmt::format("KV heads 0 and {} hold protected tokens in different slots", kv_head),
          fmt::format("layer {}", layer), "protect the oldest or the newest tokens");
    }
  }
  return result;
}

LayerDecision extended(const LayerDecision& decision, int tokens) {
  LayerDecision wide = LayerDecision::keep_all(decision.layer, decision.kv_heads, tokens);
  wide.edges = decision.edges;
  wide.key_rows = decision.key_rows;
  wide.key_row_dim = decision.key_row_dim;
  wide.granted = decision.granted;
  wide.cut = decision.cut;
  const auto spread_row = [&](const auto& from, auto& to, std::size_t row) {
    const auto first = from.begin() + static_cast<std::ptrdiff_t>(row) * decision.tokens;
    std::copy(first, first + decision.tokens,
              to.begin() + static_cast<std::ptrdiff_t>(row) * tokens);
  };
  const auto widen = [&](const std::vector<float>& from, std::vector<float>& to) {
    const std::size_t rows = from.size() / static_cast<std::size_t>(std::max(decision.tokens, 1));
    to.assign(rows * static_cast<std::size_t>(tokens), nan);
    for (std::size_t row = 0; row < rows; ++row) {
      spread_row(from, to, row);
    }
  };
  for (std::size_t row = 0; row < static_cast<std::size_t>(decision.kv_heads); ++row) {
    spread_row(decision.fate, wide.fate, row);
    spread_row(decision.reason, wide.reason, row);
    spread_row(decision.removed_at, wide.removed_at, row);
  }
  widen(decision.scores, wide.scores);
  widen(decision.terms, wide.terms);
  return wide;
}

LayerDecision over_tokens(const LayerDecision& cut, const CutPlace& place) {
  LayerDecision whole = extended(place.before, place.tokens);
  for (int kv_head = 0; kv_head < cut.kv_heads; ++kv_head) {
    for (int slot = 0; slot < cut.tokens; ++slot) {
      const std::size_t from = cut.cell(kv_head, slot);
      const std::size_t to =
          whole.cell(kv_head, place.slots.token[place.slots.cell(kv_head, slot)]);
      whole.fate[to] = cut.fate[from];
      whole.reason[to] = cut.reason[from];
      whole.removed_at[to] =
          cut.removed_at[from] == alive ? alive : static_cast<std::uint32_t>(place.event);
    }
  }
  add_edges(cut, place, whole);
  whole.granted = cut.granted;
  whole.cut = cut.cut;
  whole.scores = spread(cut.scores, place.slots, place.tokens);
  whole.terms = spread(cut.terms, place.slots, place.tokens);
  return whole;
}

}  // namespace kvscope::detail
