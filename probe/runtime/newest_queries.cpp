#include "newest_queries.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace kvscope::detail {
namespace {

bool plain_floats(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat;
}

/// One row of every head, [heads, row, width] or [heads, row], through pointers: operators of the
/// tensor library take longer than all the numbers of a decode step.
void copy_row(const at::Tensor& from, std::int64_t from_row, const at::Tensor& to,
              std::int64_t to_row) {
  const std::int64_t width = from.dim() == 3 ? from.size(2) : 1;
  const std::int64_t from_stride = from.stride(0);
  const std::int64_t to_stride = to.stride(0);
  const float* source = from.const_data_ptr<float>() + from_row * from.stride(1);
  float* target = to.mutable_data_ptr<float>() + to_row * to.stride(1);
  for (std::int64_t head = from.size(0); head > 0; --head) {
    std::copy_n(source, width, target);
    source += from_stride;
    target += to_stride;
  }
}

/// Room of `width` rows like those of `rows`, a row's heads side by side: the next row is written
/// to memory that lies in a row.
at::Tensor room_like(const at::Tensor& rows, std::int64_t width) {
  std::vector<std::int64_t> sizes = rows.sizes().vec();
  sizes[1] = sizes[0];
  sizes[0] = width;
  return at::empty(sizes, rows.options()).transpose(0, 1);
}

}  // namespace

at::Tensor NewestQueries::queries() const {
  return query_room_.defined() ? query_room_.narrow(1, first_, count()) : at::Tensor();
}

at::Tensor NewestQueries::lse() const {
  return lse_room_.defined() ? lse_room_.narrow(1, first_, count()) : at::Tensor();
}

void NewestQueries::move(const at::Tensor& queries, const at::Tensor& lse, std::int64_t kept,
                         std::int64_t width) {
  const at::Tensor query_room = room_like(queries, width);
  const at::Tensor lse_room = room_like(lse, width);
  if (kept > 0) {
    const std::int64_t from = first_ + count() - kept;
    query_room.narrow(1, 0, kept).copy_(query_room_.narrow(1, from, kept));
    lse_room.narrow(1, 0, kept).copy_(lse_room_.narrow(1, from, kept));
  }
  query_room_ = query_room;
  lse_room_ = lse_room;
  first_ = 0;
}

void NewestQueries::add(const at::Tensor& queries, const at::Tensor& lse,
                        std::span<const std::int32_t> positions, int window) {
  const std::int64_t rows = queries.size(1);
  const std::int64_t fresh = std::min<std::int64_t>(rows, window);
  const std::int64_t kept = std::min<std::int64_t>(count(), window - fresh);
  if (kept == 0) {  // a prompt: as much as there is, which most often stays alone
    move(queries, lse, 0, fresh);
  } else if (first_ + count() + fresh > query_room_.size(1)) {
    move(queries, lse, kept, std::int64_t{2} * window);
  } else {
    first_ += count() - kept;
  }
  if (fresh == 1 && plain_floats(queries) && plain_floats(lse) && queries.stride(2) == 1) {
    copy_row(queries, rows - 1, query_room_, first_ + kept);
    copy_row(lse, lse.size(1) - 1, lse_room_, first_ + kept);
  } else {
    query_room_.narrow(1, first_ + kept, fresh).copy_(queries.narrow(1, rows - fresh, fresh));
    lse_room_.narrow(1, first_ + kept, fresh).copy_(lse.narrow(1, lse.size(1) - fresh, fresh));
  }
  positions_.erase(positions_.begin(), positions_.end() - kept);
  positions_.insert(positions_.end(), positions.end() - fresh, positions.end());
}

NewestQueries NewestQueries::clone() const {
  NewestQueries copy = *this;
  if (query_room_.defined()) {
    copy.query_room_ = query_room_.clone();
    copy.lse_room_ = lse_room_.clone();
  }
  return copy;
}

}  // namespace kvscope::detail
