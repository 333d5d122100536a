#include "kvscope/model/block_type.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "block_loads.h"
#include "codebook_types.h"

namespace kvscope {
namespace {

template <typename T>
void plain(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t element = 0; element < blocks; ++element) {
    out[element] =
        static_cast<float>(load<T>(source + static_cast<std::size_t>(element) * sizeof(T)));
  }
}

void plain_f32(const std::uint8_t* source, std::int64_t blocks, float* out) {
  std::memcpy(out, source, static_cast<std::size_t>(blocks) * sizeof(float));
}

void plain_f16(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t element = 0; element < blocks; ++element) {
    out[element] = load_half(source + 2 * element);
  }
}

void plain_bf16(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t element = 0; element < blocks; ++element) {
    out[element] = from_bfloat16(load<std::uint16_t>(source + 2 * element));
  }
}

void q1_0(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 18, out += 128) {
    const float d = load_half(source);
    for (int e = 0; e < 128; ++e) {
      out[e] = (source[2 + e / 8] >> (e % 8) & 1) != 0 ? d : -d;
    }
  }
}

void q4_0(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 18, out += 32) {
    const float d = load_half(source);
    for (int e = 0; e < 16; ++e) {
      const std::uint8_t byte = source[2 + e];
      out[e] = static_cast<float>((byte & 15) - 8) * d;
      out[e + 16] = static_cast<float>((byte >> 4) - 8) * d;
    }
  }
}

void q4_1(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 20, out += 32) {
    const float d = load_half(source);
    const float m = load_half(source + 2);
    for (int e = 0; e < 16; ++e) {
      const std::uint8_t byte = source[4 + e];
      out[e] = static_cast<float>(byte & 15) * d + m;
      out[e + 16] = static_cast<float>(byte >> 4) * d + m;
    }
  }
}

void q5_0(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 22, out += 32) {
    const float d = load_half(source);
    const auto high = load<std::uint32_t>(source + 2);
    for (int e = 0; e < 16; ++e) {
      const std::uint8_t byte = source[6 + e];
      const int low = (byte & 15) | static_cast<int>(((high >> e) & 1) << 4);
      const int upper = (byte >> 4) | static_cast<int>(((high >> (e + 16)) & 1) << 4);
      out[e] = static_cast<float>(low - 16) * d;
      out[e + 16] = static_cast<float>(upper - 16) * d;
    }
  }
}

void q5_1(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 24, out += 32) {
    const float d = load_half(source);
    const float m = load_half(source + 2);
    const auto high = load<std::uint32_t>(source + 4);
    for (int e = 0; e < 16; ++e) {
      const std::uint8_t byte = source[8 + e];
      const int low = (byte & 15) | static_cast<int>(((high >> e) & 1) << 4);
      const int upper = (byte >> 4) | static_cast<int>(((high >> (e + 16)) & 1) << 4);
      out[e] = static_cast<float>(low) * d + m;
      out[e + 16] = static_cast<float>(upper) * d + m;
    }
  }
}

void q8_0(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 34, out += 32) {
    const float d = load_half(source);
    for (int e = 0; e < 32; ++e) {
      out[e] = static_cast<float>(static_cast<std::int8_t>(source[2 + e])) * d;
    }
  }
}

void q2_k(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 84, out += 256) {
    const std::uint8_t* scales = source;
    const std::uint8_t* quants = source + 16;
    const float d = load_half(source + 80);
    const float dmin = load_half(source + 82);
    for (int e = 0; e < 256; ++e) {
      const int within = e % 128;
      const int shift = within / 32 * 2;
      const int q = (quants[e / 128 * 32 + within % 32] >> shift) & 3;
      const std::uint8_t scale = scales[e / 16];
      out[e] = d * static_cast<float>(scale & 15) * static_cast<float>(q) -
               dmin * static_cast<float>(scale >> 4);
    }
  }
}

void q3_k(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 110, out += 256) {
    const std::uint8_t* mask = source;
    const std::uint8_t* quants = source + 32;
    const std::uint8_t* packed = source + 96;
    const float d = load_half(source + 108);
    int scales[16];
    for (int k = 0; k < 16; ++k) {
      const int low = k < 8 ? packed[k] & 15 : packed[k - 8] >> 4;
      const int high = (packed[8 + k % 4] >> (2 * (k / 4))) & 3;
      scales[k] = (low | (high << 4)) - 32;
    }
    for (int e = 0; e < 256; ++e) {
      const int within = e % 128;
      const int q = (quants[e / 128 * 32 + within % 32] >> (within / 32 * 2)) & 3;
      const bool set = ((mask[e % 32] >> (e / 32)) & 1) != 0;
      out[e] = d * static_cast<float>(scales[e / 16]) * static_cast<float>(set ? q : q - 4);
    }
  }
}

struct ScaleMin {
  float scale;
  float minimum;
};

/// Six-bit scale and minimum of group j of a Q4_K or Q5_K block.
ScaleMin scale_min(const std::uint8_t* packed, int j) {
  if (j < 4) {
    return {static_cast<float>(packed[j] & 63), static_cast<float>(packed[j + 4] & 63)};
  }
  return {static_cast<float>((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4)),
          static_cast<float>((packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))};
}

void q4_k(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 144, out += 256) {
    const float d = load_half(source);
    const float dmin = load_half(source + 2);
    for (int group = 0; group < 8; ++group) {
      const ScaleMin s = scale_min(source + 4, group);
      const std::uint8_t* quants = source + 16 + group / 2 * 32;
      const int shift = group % 2 * 4;
      for (int e = 0; e < 32; ++e) {
        out[group * 32 + e] =
            d * s.scale * static_cast<float>((quants[e] >> shift) & 15) - dmin * s.minimum;
      }
    }
  }
}

void q5_k(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 176, out += 256) {
    const float d = load_half(source);
    const float dmin = load_half(source + 2);
    const std::uint8_t* high = source + 16;
    for (int group = 0; group < 8; ++group) {
      const ScaleMin s = scale_min(source + 4, group);
      const std::uint8_t* quants = source + 48 + group / 2 * 32;
      const int shift = group % 2 * 4;
      for (int e = 0; e < 32; ++e) {
        const int q = ((quants[e] >> shift) & 15) + (((high[e] >> group) & 1) << 4);
        out[group * 32 + e] = d * s.scale * static_cast<float>(q) - dmin * s.minimum;
      }
    }
  }
}

void q6_k(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 210, out += 256) {
    const float d = load_half(source + 208);
    for (int half = 0; half < 2; ++half) {
      const std::uint8_t* low = source + half * 64;
      const std::uint8_t* high = source + 128 + half * 32;
      const auto* scales = reinterpret_cast<const std::int8_t*>(source + 192 + half * 8);
      for (int quarter = 0; quarter < 4; ++quarter) {
        const std::uint8_t* bytes = low + (quarter % 2) * 32;
        for (int l = 0; l < 32; ++l) {
          const int nibble = quarter < 2 ? bytes[l] & 15 : bytes[l] >> 4;
          const int q = nibble | (((high[l] >> (2 * quarter)) & 3) << 4);
          out[half * 128 + quarter * 32 + l] =
              d * static_cast<float>(scales[l / 16 + 2 * quarter]) * static_cast<float>(q - 32);
        }
      }
    }
  }
}

/// Four exponent and three fraction bits, no infinities: the form called E4M3FN.
void plain_f8_e4m3(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t element = 0; element < blocks; ++element) {
    const int bits = source[element];
    const int exponent = (bits >> 3) & 15;
    const int fraction = bits & 7;
    const float magnitude = (bits & 127) == 127 ? std::numeric_limits<float>::quiet_NaN()
                            : exponent == 0
                                ? static_cast<float>(fraction) * 0x1p-9f
                                : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
    out[element] = (bits & 128) != 0 ? -magnitude : magnitude;
  }
}

/// The upper half of an IEEE half.
void plain_f8_e5m2(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t element = 0; element < blocks; ++element) {
    out[element] = from_half(static_cast<std::uint16_t>(source[element] << 8));
  }
}

constexpr BlockType types[] = {
    {0, "F32", 4, 1, plain_f32},
    {1, "F16", 2, 1, plain_f16},
    {2, "Q4_0", 18, 32, q4_0},
    {3, "Q4_1", 20, 32, q4_1},
    {6, "Q5_0", 22, 32, q5_0},
    {7, "Q5_1", 24, 32, q5_1},
    {8, "Q8_0", 34, 32, q8_0},
    {10, "Q2_K", 84, 256, q2_k},
    {11, "Q3_K", 110, 256, q3_k},
    {12, "Q4_K", 144, 256, q4_k},
    {13, "Q5_K", 176, 256, q5_k},
    {14, "Q6_K", 210, 256, q6_k},
    {16, "IQ2_XXS", 66, 256, iq2_xxs},
    {17, "IQ2_XS", 74, 256, iq2_xs},
    {18, "IQ3_XXS", 98, 256, iq3_xxs},
    {19, "IQ1_S", 50, 256, iq1_s},
    {20, "IQ4_NL", 18, 32, iq4_nl},
    {21, "IQ3_S", 110, 256, iq3_s},
    {22, "IQ2_S", 82, 256, iq2_s},
    {23, "IQ4_XS", 136, 256, iq4_xs},
    {24, "I8", 1, 1, plain<std::int8_t>, true},
    {25, "I16", 2, 1, plain<std::int16_t>, true},
    {26, "I32", 4, 1, plain<std::int32_t>, true},
    {27, "I64", 8, 1, plain<std::int64_t>, true},
    {28, "F64", 8, 1, plain<double>},
    {29, "IQ1_M", 56, 256, iq1_m},
    {30, "BF16", 2, 1, plain_bf16},
    {34, "TQ1_0", 54, 256, tq1_0},
    {35, "TQ2_0", 66, 256, tq2_0},
    {39, "MXFP4", 17, 32, mxfp4},
    {40, "NVFP4", 36, 64, nvfp4},
    {41, "Q1_0", 18, 128, q1_0},
};

constexpr BlockType safetensors_only[] = {
    {1000, "F8_E4M3", 1, 1, plain_f8_e4m3},
    {1001, "F8_E5M2", 1, 1, plain_f8_e5m2},
    {1002, "BOOL", 1, 1, plain<std::uint8_t>, true},
    {1003, "U8", 1, 1, plain<std::uint8_t>, true},
    {1004, "U16", 2, 1, plain<std::uint16_t>, true},
    {1005, "U32", 4, 1, plain<std::uint32_t>, true},
    {1006, "U64", 8, 1, plain<std::uint64_t>, true},
};

}  // namespace

const BlockType* block_type(std::uint32_t id) {
  for (const BlockType& type : types) {
    if (type.id == id) {
      return &type;
    }
  }
  return nullptr;
}

const BlockType* safetensors_type(std::string_view name) {
  for (const BlockType& type : safetensors_only) {
    if (name == type.name) {
      return &type;
    }
  }
  for (const BlockType& type : types) {
    if (name == type.name && type.elements == 1) {
      return &type;
    }
  }
  return nullptr;
}

}  // namespace kvscope
