#pragma once

#include <cstdint>
#include <vector>

namespace kvscope {

/// What the slots of one layer's cache stand for. Ragged: head g has length[g] real slots, in token
/// order; cells beyond are token -1, multiplicity 0, and never selectable.
struct SlotTable {
  int kv_heads = 0;
  int slots = 0;                       ///< longest head
  std::vector<int> length;             ///< [kv_heads]
  std::vector<std::int32_t> token;     ///< [kv_heads, slots] the token whose place this is
  std::vector<std::int32_t> position;  ///< [kv_heads, slots] what RoPE was given
  std::vector<float>
      multiplicity;  ///< [kv_heads, slots] tokens the slot stands for, may be fractional

  std::size_t cell(int kv_head, int slot) const {
    return static_cast<std::size_t>(kv_head) * static_cast<std::size_t>(slots) +
           static_cast<std::size_t>(slot);
  }
  bool uniform() const;   ///< every head has `slots` real slots
  bool unmerged() const;  ///< every real slot has multiplicity 1

  /// The full cache of tokens [0, tokens): slot = token = position, multiplicity 1.
  static SlotTable full(int kv_heads, int tokens);
};

}  // namespace kvscope
