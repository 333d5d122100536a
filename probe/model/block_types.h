#pragma once

#include <cstdint>

namespace kvscope {

/// A GGUF block type that can be read: name, bytes and elements of a block, and its dequantiser.
struct BlockType {
  std::uint32_t id;
  const char* name;
  int bytes;
  int elements;
  /// `blocks` blocks from `source` to float32.
  void (*dequantise)(const std::uint8_t* source, std::int64_t blocks, float* out);
};

/// nullptr if `id` is unknown or not supported.
const BlockType* block_type(std::uint32_t id);

}  // namespace kvscope
