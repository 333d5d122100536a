#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvscope/core/decision.h"

namespace kvscope {

/// Fate letters in the order every table and legend shows them (DESIGN section 3).
inline constexpr std::string_view fate_order = "KPTMEDS";

/// One word for a fate letter: "kept", "protected", "target", "merged", "evicted", "dropped in
/// merge", "skipped", "not yet"; "unknown" for anything else.
const char* fate_name(char letter);

/// Cells (KV head, token) by fate letter.
struct FateCounts {
  std::int64_t kept = 0;
  std::int64_t protected_by_rule = 0;
  std::int64_t target = 0;
  std::int64_t merged = 0;
  std::int64_t evicted = 0;
  std::int64_t dropped = 0;
  std::int64_t skipped = 0;

  /// Count of one letter of `fate_order`; 0 for any other.
  std::int64_t of(char letter) const;
  void add(char letter, std::int64_t cells = 1);
  FateCounts& operator+=(const FateCounts& other);
  bool operator==(const FateCounts&) const = default;

  std::int64_t holding() const { return kept + protected_by_rule + target + skipped; }
  std::int64_t removed() const { return merged + evicted + dropped; }
  std::int64_t total() const { return holding() + removed(); }
  /// Share of cells that hold a slot; 1 when there are none.
  double kept_share() const;
  /// Share of the removed cells that a merge dropped without folding them in; 0 when none was
  /// removed.
  double dropped_share() const;
};

FateCounts count_fates(std::string_view letters);

/// Fates of a decision over the model, per layer and per KV head.
struct FateTable {
  int kv_heads = 0;
  FateCounts total;
  std::vector<FateCounts> layer;  ///< [layers]
  std::vector<FateCounts> head;   ///< [layers, kv_heads]

  const FateCounts& at(int layer_row, int kv_head) const {
    return head[static_cast<std::size_t>(layer_row) * static_cast<std::size_t>(kv_heads) +
                static_cast<std::size_t>(kv_head)];
  }
};

FateTable count_fates(const Decision& decision);

/// KV heads over all layers in which each token holds a slot: [tokens], 0 to layers * kv_heads.
std::vector<int> heads_holding(const Decision& decision);

/// KV heads of each layer in which each token holds a slot: [layers, tokens].
std::vector<int> heads_holding_by_layer(const Decision& decision);

/// Heads in ascending order as "h0,2,4-7": runs of three or more are written first-last. Empty for
/// none.
std::string head_list(const std::vector<int>& kv_heads);

}  // namespace kvscope
