#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace kvscope {

/// IEEE half to float, exactly; NaN keeps its payload.
inline float from_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t magnitude = bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) {  // infinity and NaN
    return std::bit_cast<float>(sign | 0x7F800000u | ((magnitude & 0x3FFu) << 13));
  }
  if (magnitude < 0x400u) {  // subnormal: a multiple of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
}

inline float from_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

template <typename T>
T load(const std::uint8_t* source) {
  T value;
  std::memcpy(&value, source, sizeof(T));
  return value;
}

inline float load_half(const std::uint8_t* source) {
  return from_half(load<std::uint16_t>(source));
}

}  // namespace kvscope
