#include "block_dot.h"

#include <string_view>

#include "block_loop.h"
#include "instruction_set.h"

namespace kvscope::detail {
namespace {

std::span<const BlockLoop> choose() {
#if defined(__x86_64__)
  if (!has_avx2() || !__builtin_cpu_supports("f16c")) {
    return {};
  }
  return has_avx512() ? block_loops_avx512() : block_loops_avx2();
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
