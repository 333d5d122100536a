#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kvscope/model/block_type.h"

namespace kvscope::detail {

/// A weight matrix [rows, columns] as the forward pass multiplies with it: dense in the model's
/// type on its device, or the file's blocks kept as stored (CPU) and dequantised a tile at a time.
/// Both hold the same numbers. Copies share them.
class WeightMatrix {
 public:
  /// Rows of one block type.
  struct Blocks {
    const BlockType* type = nullptr;
    std::int64_t rows = 0;
    std::shared_ptr<const std::uint8_t> bytes;  ///< rows * columns / elements * bytes of the type
  };

  WeightMatrix() = default;
  explicit WeightMatrix(at::Tensor dense) : dense_(std::move(dense)) {}
  /// Parts one below the other; `dtype` is the model's.
  WeightMatrix(std::vector<Blocks> parts, std::int64_t columns, at::ScalarType dtype);

  bool defined() const { return dense_.defined() || parts_ != nullptr; }
  bool kept() const { return parts_ != nullptr; }
  std::int64_t rows() const { return kept() ? rows_ : dense_.size(0); }
  std::int64_t columns() const { return kept() ? columns_ : dense_.size(1); }

  /// [rows, columns]; made anew at every call where the blocks are kept.
  at::Tensor dense() const;
  /// The rows `ids`: [ids, columns].
  at::Tensor gather(std::span<const std::int32_t> ids) const;
  /// Calls body(first_row, tile [count, columns]) for consecutive tiles: all rows at once where the
  /// matrix is dense, else as many as stay in the outer cache. A tile is valid during the call.
  void tiles(const std::function<void(std::int64_t first, const at::Tensor& tile)>& body) const;
  /// out = matrix * x, in float32: `rows` and `columns` contiguous numbers, whatever their
  /// dimensions; out is float32. On the CPU.
  void times(const at::Tensor& x, at::Tensor& out) const;

  /// x [n, columns] times the matrix transposed, plus bias [rows] where it is defined: [n, rows], all
  /// in the model's type.
  at::Tensor product(const at::Tensor& x, const at::Tensor& bias = {}) const;

 private:
  at::Tensor dense_;
  std::shared_ptr<const std::vector<Blocks>> parts_;
  std::int64_t rows_ = 0;
  std::int64_t columns_ = 0;
  at::ScalarType dtype_ = at::kFloat;
};

}  // namespace kvscope::detail
