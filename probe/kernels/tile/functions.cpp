#include "tile/tasks.h"

namespace kvscope::tile {
namespace {

const Functions& widest() {
#if defined(__x86_64__) || defined(__i386__)
  if (avx512_functions() != nullptr && __builtin_cpu_supports("avx512f")) {
    return *avx512_functions();
  }
  if (avx2_functions() != nullptr && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    return *avx2_functions();
  }
#endif
  return portable_functions();
}

}  // namespace

const Functions& functions() {
  static const Functions& chosen = widest();
  return chosen;
}

}  // namespace kvscope::tile
