#include "block_dot.h"

#include <string_view>

#include "block_loop.h"

namespace kvscope::detail {
namespace {

std::span<const BlockLoop> choose() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c")) {
    return {};
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return block_loops_avx512();
  }
  return block_loops_avx2();
#else
  return {};
#endif
}

}  // namespace

BlockDot block_dot(const BlockType& type, std::int64_t columns) {
  static const std::span<const BlockLoop> loops = choose();
  for (const BlockLoop& loop : loops) {
    if (std::string_view(type.name) == loop.type && columns % loop.elements == 0) {
      return loop.dot;
    }
  }
  return nullptr;
}

}  // namespace kvscope::detail
