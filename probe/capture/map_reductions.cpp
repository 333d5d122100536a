#include "map_reductions.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>

#include "kvscope/kernels/attention_stats.h"

namespace kvscope::detail {
namespace {

constexpr std::int64_t rows_at_once = 256;

/// The `count` largest of a row's first `visible` values, descending, equal: the lower index first.
void top_of_row(const float* row, std::int64_t visible, int count, std::vector<std::int32_t>& order,
                std::int32_t* keys, float* probabilities) {
  order.resize(static_cast<std::size_t>(visible));
  std::iota(order.begin(), order.end(), 0);
  const auto middle = order.begin() + std::min<std::int64_t>(count, visible);
  std::partial_sort(order.begin(), middle, order.end(), [row](std::int32_t a, std::int32_t b) {
    return row[a] != row[b] ? row[a] > row[b] : a < b;
  });
  for (auto key = order.begin(); key != middle; ++key) {
    *keys++ = *key;
    *probabilities++ = row[*key];
  }
}

/// Cells of a level from those of the next finer one, two by two.
template <typename Reduce>
at::Tensor coarser(const at::Tensor& fine, Reduce reduce) {
  const std::int64_t blocks = fine.size(1);
  const std::int64_t half = (blocks + 1) / 2;
  const at::Tensor even = at::constant_pad_nd(fine, {0, 2 * half - blocks, 0, 2 * half - blocks}, 0)
                              .view({fine.size(0), half, 2, half, 2});
  return reduce(even);
}

}  // namespace

std::vector<int> MapReductions::levels(int block, int prompt_tokens) {
  std::vector<int> sides;
  for (std::int64_t side = block; block > 0; side *= 2) {
    sides.push_back(static_cast<int>(side));
    if (side >= prompt_tokens) {
      break;
    }
  }
  return sides;
}

MapReductions::MapReductions(const ModelShape& shape, const CaptureRequest& request,
                             std::vector<int> query_heads, int prompt_tokens, at::Tensor segments)
    : shape_(shape),
      query_heads_(std::move(query_heads)),
      top_keys_(request.top_keys),
      block_(request.pooled_block),
      segments_(std::move(segments)) {
  if (block_ > 0) {
    const std::int64_t blocks = (prompt_tokens + block_ - 1) / block_;
    sum_ = at::zeros({std::ssize(query_heads_), blocks, blocks}, at::kFloat);
    max_ = at::zeros({std::ssize(query_heads_), blocks, blocks}, at::kFloat);
  }
}

void MapReductions::add(const LayerRecord& record, const at::Tensor& lse, const Top& top,
                        const BySegment& by_segment) {
  AttentionStatsOptions options;
  options.scale = shape_.attention_scale;
  options.softcap = shape_.logit_softcap;
  options.window = shape_.window_of(record.layer);
  const std::int64_t rows = record.queries.size(1);
  std::vector<std::int32_t> order;
  for (int head_row = 0; head_row < std::ssize(query_heads_); ++head_row) {
    const int query_head = query_heads_[static_cast<std::size_t>(head_row)];
    for (std::int64_t first = 0; first < rows; first += rows_at_once) {
      const std::int64_t count = std::min(rows_at_once, rows - first);
      const int position = record.first_query + static_cast<int>(first);
      const std::int64_t visible = position + count;
      const at::Tensor keys = record.keys[shape_.kv_head_of(query_head)].narrow(0, 0, visible);
      const at::Tensor tile =
          attention_rectangle(record.queries[query_head].narrow(0, first, count), keys,
                              lse[query_head].narrow(0, first, count), position, 0, options)
              .to(at::kCPU)
              .contiguous();
      if (block_ > 0) {
        pool(tile, head_row, position);
      }
      if (segments_.defined()) {
        by_segment(head_row, position, tile.mm(segments_.narrow(0, 0, visible)));
      }
      if (top_keys_ > 0) {
        at::Tensor best = at::full({count, top_keys_}, -1, at::kInt);
        at::Tensor probability =
            at::full({count, top_keys_}, std::numeric_limits<float>::quiet_NaN(), at::kFloat);
        for (std::int64_t row = 0; row < count; ++row) {
          top_of_row(tile.const_data_ptr<float>() + row * visible, position + row + 1, top_keys_,
                     order, best.mutable_data_ptr<std::int32_t>() + row * top_keys_,
                     probability.mutable_data_ptr<float>() + row * top_keys_);
        }
        top(head_row, position, best, probability);
      }
    }
  }
}

void MapReductions::pool(const at::Tensor& tile, int head_row, int first_query) {
  const std::int64_t keys = tile.size(1);
  const std::int64_t columns = (keys + block_ - 1) / block_;
  const at::Tensor grouped = at::constant_pad_nd(tile, {0, columns * block_ - keys}, 0)
                                 .view({tile.size(0), columns, block_});
  const at::Tensor row_sum = grouped.sum(2);
  const at::Tensor row_max = grouped.amax(2);
  for (std::int64_t row = 0; row < tile.size(0);) {
    const std::int64_t block_row = (first_query + row) / block_;
    const std::int64_t count =
        std::min<std::int64_t>((block_row + 1) * block_ - first_query - row, tile.size(0) - row);
    at::Tensor sum = sum_[head_row][block_row].narrow(0, 0, columns);
    at::Tensor max = max_[head_row][block_row].narrow(0, 0, columns);
    sum.add_(row_sum.narrow(0, row, count).sum(0));
    max.copy_(at::maximum(max, row_max.narrow(0, row, count).amax(0)));
    row += count;
  }
}

at::Tensor MapReductions::pooled_sum(int level) const {
  at::Tensor cells = sum_;
  for (int step = 0; step < level; ++step) {
    cells = coarser(cells, [](const at::Tensor& quads) { return quads.sum({2, 4}); });
  }
  return cells;
}

at::Tensor MapReductions::pooled_max(int level) const {
  at::Tensor cells = max_;
  for (int step = 0; step < level; ++step) {
    cells = coarser(cells, [](const at::Tensor& quads) { return quads.amax({2, 4}); });
  }
  return cells;
}

}  // namespace kvscope::detail
