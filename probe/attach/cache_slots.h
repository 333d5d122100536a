#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kvscope/core/slots.h"

namespace kvscope::detail {

/// One layer's cache as an attention call shows it: which token each of its columns holds. Others
/// cut and reorder it between calls and do not say how. Rows are recognised by their bits: a key
/// and a value that entered the cache are 8 bytes here, and found again wherever they stand.
class CacheSlots {
 public:
  explicit CacheSlots(int kv_heads);

  /// Rows of the next tokens as they enter the cache, nothing of which is lost yet; keys and values
  /// [kv_heads, rows, head_dim] of any type.
  void enter(const at::Tensor& keys, const at::Tensor& values);
  /// The cache of a pass, the `rows` of its own tokens at the end: keys and values [kv_heads,
  /// columns, head_dim]. hidden [kv_heads, columns] bool on the CPU, or undefined: columns that are
  /// there and that no query sees. Returns whether tokens were lost since the last call. Throws
  /// Error{unsupported} for rows that never entered: merged or rotated anew.
  bool see(const at::Tensor& keys, const at::Tensor& values, int rows, const at::Tensor& hidden);
  /// Whether every column is its token, and seen.
  bool whole() const { return whole_; }

  /// The first `columns` columns as slots in token order, without hidden ones.
  SlotTable table(int columns) const;
  /// Column of each slot of `table`, [kv_heads, slots] int64 on the CPU; 0 beyond a head's length.
  at::Tensor order(int columns) const;
  /// Of each head the tokens before `tokens` that hold a slot: [kv_heads][tokens].
  std::vector<std::vector<bool>> alive(int tokens) const;

 private:
  struct Column {
    std::int32_t token = 0;
    bool hidden = false;
  };
  void remember(const at::Tensor& keys, const at::Tensor& values);
  void follow(const at::Tensor& keys, const at::Tensor& values, int rows, const at::Tensor& hidden);
  void find_again(const at::Tensor& keys, const at::Tensor& values, const at::Tensor& hidden);
  std::vector<std::vector<int>> ordered(int columns) const;

  std::vector<std::vector<std::int64_t>> marks_;  ///< [kv_heads][tokens] of the rows' bits
  std::vector<std::vector<Column>> columns_;      ///< [kv_heads][columns]; empty while `whole_`
  int entered_ = 0;
  bool whole_ = true;
};

}  // namespace kvscope::detail
