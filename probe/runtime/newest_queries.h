#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace kvscope::detail {

/// The newest queries of a layer with their LSE, in rooms twice as wide as are ever kept: a decode
/// step writes one row, and moves the others only once in a while. What was handed out stays as it
/// is.
class NewestQueries {
 public:
  /// Adds the newest rows of `queries` [query_heads, rows, head_dim] and `lse` [query_heads, rows
  /// or fewer] (float32); of all that was ever added, the newest `window` are kept.
  void add(const at::Tensor& queries, const at::Tensor& lse,
           std::span<const std::int32_t> positions, int window);
  void clear() { *this = NewestQueries(); }
  NewestQueries clone() const;

  int count() const { return static_cast<int>(positions_.size()); }
  at::Tensor queries() const;  ///< [query_heads, count, head_dim], a view; undefined if none
  at::Tensor lse() const;      ///< [query_heads, count] likewise, not contiguous
  const std::vector<std::int32_t>& positions() const { return positions_; }

 private:
  /// Moves the newest `kept` rows to the front of rooms of `width` rows like `queries` and `lse`.
  void move(const at::Tensor& queries, const at::Tensor& lse, std::int64_t kept,
            std::int64_t width);

  at::Tensor query_room_;  ///< [query_heads, width, head_dim]
  at::Tensor lse_room_;    ///< [query_heads, width]
  std::int64_t first_ = 0;
  std::vector<std::int32_t> positions_;
};

}  // namespace kvscope::detail
