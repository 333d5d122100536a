#pragma once

#include <cstdint>
#include <string_view>

namespace kvscope {

/// A stored type that can be read: name, bytes and elements of a block, and its dequantiser.
struct BlockType {
  std::uint32_t id;
  const char* name;
  int bytes;
  int elements;
  /// `blocks` blocks from `source` to float32.
  void (*dequantise)(const std::uint8_t* source, std::int64_t blocks, float* out);
  bool integers = false;  ///< plain integers: fit for tables, not for weights
};

/// The GGUF type `id`; nullptr if it is unknown or not supported.
const BlockType* block_type(std::uint32_t id);

/// The safetensors type `name` ("F32", "BF16", "F8_E4M3", ...); nullptr if unknown. Types that GGUF
/// lacks have ids from 1000 on.
const BlockType* safetensors_type(std::string_view name);

}  // namespace kvscope
