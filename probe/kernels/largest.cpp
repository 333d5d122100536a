#include "kvscope/kernels/largest.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tile/tasks.h"

namespace kvscope {
namespace {

/// Work space of a thread. Buffers only grow, so that nothing is set to zero again.
struct Room {
  std::vector<ScaledValues> pieces;
  std::vector<float> own_maxima;  ///< of pieces that came without
  std::vector<float> maxima;      ///< times the factors
  std::vector<float> numbers;     ///< [groups][ScaledValues::group] of groups that may matter
  std::vector<std::int32_t> first_index;
  std::vector<RankedValue> found;
};

template <typename T>
T* room_for(std::vector<T>& buffer, std::int64_t count) {
  buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(count)));
  return buffer.data();
}

std::int64_t groups_of(std::int64_t count) {
  return (count + ScaledValues::group - 1) / ScaledValues::group;
}

/// Gives every piece its maxima. At least `count` numbers, one of a group, reach what is returned.
float level_of_groups(std::int64_t groups, int count, const tile::Functions& functions,
                      Room& room) {
  float* own = room_for(room.own_maxima, groups);
  float* scaled = room_for(room.maxima, groups);
  for (ScaledValues& piece : room.pieces) {
    if (piece.maxima == nullptr) {
      functions.group_maxima(piece.values, piece.count, own);
      piece.maxima = own;
      own += groups_of(piece.count);
    }
    for (std::int64_t at = 0; at < groups_of(piece.count); ++at) {
      *scaled++ = piece.maxima[at] * piece.factor;
    }
  }
  return functions.level(room.maxima.data(), groups, count);
}

}  // namespace

std::vector<RankedValue> largest(std::span<const ScaledValues> pieces, int count) {
  std::int64_t size = 0;
  std::int64_t groups = 0;
  for (const ScaledValues& piece : pieces) {
    size += piece.count;
    groups += groups_of(piece.count);
  }
  if (count <= 0 || size <= 0) {
    return {};
  }
  const tile::Functions& functions = tile::functions();
  thread_local Room room;
  room.pieces.assign(pieces.begin(), pieces.end());
  float level = -std::numeric_limits<float>::infinity();
  if (groups >= std::int64_t{2} * count) {  // else most groups would be looked into
    level = level_of_groups(groups, count, functions, room);
  }
  float* numbers = room_for(room.numbers, groups * ScaledValues::group);
  std::int32_t* first_index = room_for(room.first_index, groups);
  std::int64_t gathered = 0;
  for (const ScaledValues& piece : room.pieces) {
    gathered += functions.gather(piece, level, numbers + gathered * ScaledValues::group,
                                 first_index + gathered);
  }
  level = functions.level(numbers, gathered * ScaledValues::group, count);
  const auto list = [&](std::int64_t most) {
    return functions.list(numbers, first_index, gathered, level, room_for(room.found, most), most);
  };
  const std::int64_t few = std::int64_t{2} * count;
  std::int64_t found = list(few);
  if (found > few) {  // many are equal
    found = list(size);
  }
  std::vector<RankedValue> best(static_cast<std::size_t>(std::min<std::int64_t>(found, count)));
  if (found <= tile::most_ranked) {
    functions.rank(room.found.data(), static_cast<int>(found), count, best.data());
  } else {
    std::partial_sort_copy(room.found.begin(), room.found.begin() + found, best.begin(), best.end(),
                           [](const RankedValue& a, const RankedValue& b) {
                             return a.value != b.value ? a.value > b.value : a.index < b.index;
                           });
  }
  return best;
}

std::vector<RankedValue> largest_log_probabilities(const float* logits, std::int64_t size,
                                                   int count) {
  const tile::Functions& functions = tile::functions();
  constexpr std::int64_t block = 4096;  // a whole number of groups
  const std::int64_t blocks = (size + block - 1) / block;
  const std::int64_t grain = std::max<std::int64_t>(1, (blocks + 1) / 2);
  std::vector<float> maxima(static_cast<std::size_t>(groups_of(size)));
  const auto in_blocks = [&](const auto& work) {
    at::parallel_for(0, blocks, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t at = begin; at < end; ++at) {
        work(at, at * block, std::min(block, size - at * block));
      }
    });
  };
  in_blocks([&](std::int64_t, std::int64_t first, std::int64_t values) {
    functions.group_maxima(logits + first, values, maxima.data() + groups_of(first));
  });
  const ScaledValues all{logits, size, 0, 1, maxima.data()};
  std::vector<RankedValue> best = largest({&all, 1}, count);
  if (best.empty()) {
    return best;
  }
  const float top = best.front().value;
  std::vector<float> sums(static_cast<std::size_t>(blocks));
  in_blocks([&](std::int64_t at, std::int64_t first, std::int64_t values) {
    sums[static_cast<std::size_t>(at)] = functions.sum_of_exp(logits + first, values, top);
  });
  const double sum = std::accumulate(sums.begin(), sums.end(), 0.0);
  if (!(sum > 0) || !std::isfinite(sum)) {
    return {};
  }
  const double normaliser = double{top} + std::log(sum);
  for (RankedValue& one : best) {
    one.value = static_cast<float>(one.value - normaliser);
  }
  return best;
}

}  // namespace kvscope
