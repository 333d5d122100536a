#include "weight_matrix.h"

#include <ATen/Parallel.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "block_dot.h"
#include "matrix_product.h"
#include "matrix_vector.h"
#include "row_ranges.h"

namespace kvscope::detail {
namespace {

/// Rows of a tile: 512 x 576 floats are 1.2 MiB, which stay in the outer cache.
constexpr std::int64_t tile_rows = 512;

using Blocks = WeightMatrix::Blocks;

std::int64_t row_bytes(const Blocks& part, std::int64_t columns) {
  return columns / part.type->elements * part.type->bytes;
}

/// Rows [first, first + out.size(0)) of a part into `out`, float32 or the model's type.
void dequantise(const Blocks& part, std::int64_t first, at::Tensor& out) {
  const std::int64_t columns = out.size(1);
  const std::int64_t stride = row_bytes(part, columns);
  const std::int64_t blocks = columns / part.type->elements;
  at::Tensor floats =
      out.scalar_type() == at::kFloat ? out : at::empty(out.sizes(), at::TensorOptions(at::kFloat));
  auto* to = floats.mutable_data_ptr<float>();
  at::parallel_for(0, out.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
    part.type->dequantise(part.bytes.get() + (first + begin) * stride, (end - begin) * blocks,
                          to + begin * columns);
  });
  if (!out.is_same(floats)) {
    out.copy_(floats);
  }
}

/// Rows [first, last) of a part times x.
void dot(const Blocks& part, const float* x, std::int64_t columns, std::int64_t first,
         std::int64_t last, float* out) {
  const std::uint8_t* rows = part.bytes.get() + first * row_bytes(part, columns);
  if (const BlockDot loop = block_dot(*part.type, columns)) {
    loop(rows, x, last - first, columns, out);
    return;
  }
  constexpr std::int64_t at_once = 4;
  std::vector<float> values(static_cast<std::size_t>(at_once * columns));
  const std::int64_t blocks = columns / part.type->elements;
  for (std::int64_t row = first; row < last; row += at_once) {
    const std::int64_t count = std::min(at_once, last - row);
    part.type->dequantise(rows, count * blocks, values.data());
    dot_rows(values.data(), x, count, columns, out);
    rows += count * row_bytes(part, columns);
    out += count;
  }
}

}  // namespace

WeightMatrix::WeightMatrix(std::vector<Blocks> parts, std::int64_t columns, at::ScalarType dtype)
    : parts_(std::make_shared<const std::vector<Blocks>>(std::move(parts))),
      columns_(columns),
      dtype_(dtype) {
  for (const Blocks& part : *parts_) {
    rows_ += part.rows;
  }
}

at::Tensor WeightMatrix::dense() const {
  if (!kept()) {
    return dense_;
  }
  at::Tensor all = at::empty({rows_, columns_}, dtype_);
  std::int64_t first = 0;
  for (const Blocks& part : *parts_) {
    at::Tensor rows = all.narrow(0, first, part.rows);
    dequantise(part, 0, rows);
    first += part.rows;
  }
  return all;
}

at::Tensor WeightMatrix::gather(std::span<const std::int32_t> ids) const {
  const auto count = static_cast<std::int64_t>(ids.size());
  if (!kept()) {
    at::Tensor index = at::empty({count}, at::kInt);
    std::copy(ids.begin(), ids.end(), index.mutable_data_ptr<int>());
    return at::embedding(dense_, index.to(dense_.device()));
  }
  at::Tensor rows = at::empty({count, columns_}, dtype_);
  for (std::int64_t row = 0; row < count; ++row) {
    std::int64_t within = ids[static_cast<std::size_t>(row)];
    auto part = parts_->begin();
    for (; within >= part->rows; ++part) {
      within -= part->rows;
    }
    at::Tensor out = rows.narrow(0, row, 1);
    dequantise(*part, within, out);
  }
  return rows;
}

void WeightMatrix::tiles(
    const std::function<void(std::int64_t first, const at::Tensor& tile)>& body) const {
  if (!kept()) {
    body(0, dense_);
    return;
  }
  at::Tensor buffer = at::empty({std::min(tile_rows, rows_), columns_}, dtype_);
  std::int64_t before = 0;
  for (const Blocks& part : *parts_) {
    for (std::int64_t first = 0; first < part.rows; first += tile_rows) {
      at::Tensor tile = buffer.narrow(0, 0, std::min(tile_rows, part.rows - first));
      dequantise(part, first, tile);
      body(before + first, tile);
    }
    before += part.rows;
  }
}

void WeightMatrix::times(const at::Tensor& x, at::Tensor& out) const {
  if (!kept()) {
    matrix_vector(dense_, x, out);
    return;
  }
  const at::Tensor values = x.to(at::kFloat);
  const auto* vector = values.const_data_ptr<float>();
  auto* result = out.mutable_data_ptr<float>();
  for_row_ranges(rows_, columns_, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t before = 0;
    for (const Blocks& part : *parts_) {
      const std::int64_t first = std::max(begin - before, std::int64_t{0});
      const std::int64_t last = std::min(end - before, part.rows);
      if (first < last) {
        dot(part, vector, columns_, first, last, result + before + first);
      }
      before += part.rows;
    }
  });
}

at::Tensor WeightMatrix::product(const at::Tensor& x, const at::Tensor& bias) const {
  if (!kept()) {
    return matrix_product(x, dense_, bias);
  }
  at::Tensor out = at::empty({x.size(0), rows_}, x.options());
  tiles([&](std::int64_t first, const at::Tensor& tile) {
    const std::int64_t count = tile.size(0);
    const at::Tensor part = bias.defined() ? bias.narrow(0, first, count) : bias;
    out.narrow(1, first, count).copy_(matrix_product(x, tile, part));
  });
  return out;
}

}  // namespace kvscope::detail
