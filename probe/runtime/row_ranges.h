#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace kvscope::detail {

/// Calls body(first, last) for ranges that together are the rows [0, rows) of a matrix of `columns`
/// columns, on all threads. Each takes the next range when it is done with one, and ranges become
/// smaller towards the end: halves of equal size end at different times, since memory does not
/// serve all processors alike, and a decode step waits for its slower thread two hundred times.
/// Ranges begin at multiples of four rows. `body` must not depend on where ranges end.
template <typename Body>
void for_row_ranges(std::int64_t rows, std::int64_t columns, const Body& body) {
  constexpr std::int64_t worth_a_thread = 65536;  ///< numbers
  constexpr std::int64_t smallest = 16384;
  const auto rows_of = [columns](std::int64_t numbers) {
    return (std::max<std::int64_t>(1, numbers / std::max<std::int64_t>(1, columns)) + 3) / 4 * 4;
  };
  const std::int64_t grain = rows_of(worth_a_thread);
  const std::int64_t threads =
      std::min<std::int64_t>(at::get_num_threads(), (rows + grain - 1) / grain);
  if (threads <= 1 || at::in_parallel_region()) {
    body(std::int64_t{0}, rows);
    return;
  }
  const std::int64_t least = rows_of(smallest);
  std::atomic<std::int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    std::int64_t first = next.load();
    while (first < rows) {
      const std::int64_t share = ((rows - first) / (2 * threads) + 3) / 4 * 4;
      const std::int64_t last = std::min(rows, first + std::max(least, share));
      if (next.compare_exchange_weak(first, last)) {
        body(first, last);
        first = next.load();
      }
    }
  });
}

}  // namespace kvscope::detail
