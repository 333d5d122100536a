#pragma once

#include <span>

#include "block_dot.h"

namespace kvscope::detail {

/// One stored type's loop.
struct BlockLoop {
  const char* type;
  int elements;  ///< of a block; rows hold whole blocks
  BlockDot dot;
};

/// The loops of an instruction set, which the processor must have.
std::span<const BlockLoop> block_loops_avx2();
std::span<const BlockLoop> block_loops_avx512();

}  // namespace kvscope::detail
