#include "codebook_types.h"

#include <bit>
#include <cmath>
#include <string_view>
#include <vector>

#include "block_loads.h"
#include "codebooks.h"

namespace kvscope {
namespace {

/// Entries of a packed codebook, `bits` each, mapped through `values`.
std::vector<float> unpack(std::string_view digits, int bits, const std::vector<float>& values) {
  const auto nibble = [](char digit) { return digit <= '9' ? digit - '0' : digit - 'a' + 10; };
  std::vector<float> entries;
  entries.reserve(digits.size() * 4 / static_cast<std::size_t>(bits));
  for (std::size_t at = 0; at + 1 < digits.size(); at += 2) {
    const int byte = nibble(digits[at]) << 4 | nibble(digits[at + 1]);
    for (int shift = 0; shift < 8; shift += bits) {
      entries.push_back(values[static_cast<std::size_t>((byte >> shift) & ((1 << bits) - 1))]);
    }
  }
  return entries;
}

const std::vector<float> levels_iq1 = {-1, 0, 1, 0};
const std::vector<float> levels_iq2 = {8, 25, 43, 0};
// IQ3 packs its eight levels four bits apart; the upper half of a nibble is unused.
const std::vector<float> levels_iq3_xxs = {4, 12, 20, 28, 36, 44, 52, 62, 0, 0, 0, 0, 0, 0, 0, 0};
const std::vector<float> levels_iq3_s = {1, 3, 5, 7, 9, 11, 13, 15, 0, 0, 0, 0, 0, 0, 0, 0};

const float* grid_iq1_s() {
  static const std::vector<float> grid = unpack(iq1_s_digits, 2, levels_iq1);
  return grid.data();
}

/// `count` entries of a grid row times `scale`, with the sign bits of `signs` from `first_bit` on.
void put(const float* row, int count, float scale, unsigned signs, int first_bit, float* out) {
  for (int e = 0; e < count; ++e) {
    const float value = scale * row[e];
    out[e] = ((signs >> (first_bit + e)) & 1u) != 0 ? -value : value;
  }
}

/// Seven stored sign bits and the eighth that makes their number even.
unsigned even_signs(unsigned stored) {
  return stored | (static_cast<unsigned>(std::popcount(stored)) & 1u) << 7;
}

constexpr float iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
constexpr float e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float ternary(unsigned digits) {
  return static_cast<float>(static_cast<int>(digits * 3 >> 8) - 1);
}

}  // namespace

void iq2_xxs(const std::uint8_t* source, std::int64_t blocks, float* out) {
  static const std::vector<float> grid = unpack(iq2_xxs_digits, 2, levels_iq2);
  for (std::int64_t block = 0; block < blocks; ++block, source += 66, out += 256) {
    const float d = load_half(source);
    for (int group = 0; group < 8; ++group) {
      const std::uint8_t* rows = source + 2 + group * 8;
      const auto rest = load<std::uint32_t>(rows + 4);
      const float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.25f;
      for (int part = 0; part < 4; ++part) {
        put(grid.data() + 8 * rows[part], 8, scale, even_signs((rest >> (7 * part)) & 127u), 0,
            out + group * 32 + part * 8);
      }
    }
  }
}

void iq2_xs(const std::uint8_t* source, std::int64_t blocks, float* out) {
  static const std::vector<float> grid = unpack(iq2_xs_digits, 2, levels_iq2);
  for (std::int64_t block = 0; block < blocks; ++block, source += 74, out += 256) {
    const float d = load_half(source);
    for (int part = 0; part < 32; ++part) {
      const unsigned word = load<std::uint16_t>(source + 2 + 2 * part);
      const int stored = (source[66 + part / 4] >> (part / 2 % 2 * 4)) & 15;
      const float scale = d * (0.5f + static_cast<float>(stored)) * 0.25f;
      put(grid.data() + 8 * (word & 511u), 8, scale, even_signs(word >> 9), 0, out + part * 8);
    }
  }
}

void iq2_s(const std::uint8_t* source, std::int64_t blocks, float* out) {
  static const std::vector<float> grid = unpack(iq2_s_digits, 2, levels_iq2);
  for (std::int64_t block = 0; block < blocks; ++block, source += 82, out += 256) {
    const float d = load_half(source);
    for (int part = 0; part < 32; ++part) {
      const int high = (source[66 + part / 4] >> (part % 4 * 2)) & 3;
      const int row = source[2 + part] | high << 8;
      const int stored = (source[74 + part / 4] >> (part / 2 % 2 * 4)) & 15;
      const float scale = d * (0.5f + static_cast<float>(stored)) * 0.25f;
      put(grid.data() + 8 * row, 8, scale, source[34 + part], 0, out + part * 8);
    }
  }
}

void iq3_xxs(const std::uint8_t* source, std::int64_t blocks, float* out) {
  static const std::vector<float> grid = unpack(iq3_xxs_digits, 4, levels_iq3_xxs);
  for (std::int64_t block = 0; block < blocks; ++block, source += 98, out += 256) {
    const float d = load_half(source);
    for (int group = 0; group < 8; ++group) {
      const auto rest = load<std::uint32_t>(source + 66 + 4 * group);
      const float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
      for (int part = 0; part < 8; ++part) {
        const unsigned signs = even_signs((rest >> (7 * (part / 2))) & 127u);
        put(grid.data() + 4 * source[2 + group * 8 + part], 4, scale, signs, part % 2 * 4,
            out + group * 32 + part * 4);
      }
    }
  }
}

void iq3_s(const std::uint8_t* source, std::int64_t blocks, float* out) {
  static const std::vector<float> grid = unpack(iq3_s_digits, 4, levels_iq3_s);
  for (std::int64_t block = 0; block < blocks; ++block, source += 110, out += 256) {
    const float d = load_half(source);
    for (int part = 0; part < 64; ++part) {
      const int high = (source[66 + part / 8] >> (part % 8)) & 1;
      const int stored = (source[106 + part / 16] >> (part / 8 % 2 * 4)) & 15;
      const float scale = d * static_cast<float>(1 + 2 * stored);
      put(grid.data() + 4 * (source[2 + part] | high << 8), 4, scale, source[74 + part / 2],
          part % 2 * 4, out + part * 4);
    }
  }
}

void iq1_s(const std::uint8_t* source, std::int64_t blocks, float* out) {
  const float* grid = grid_iq1_s();
  for (std::int64_t block = 0; block < blocks; ++block, source += 50, out += 256) {
    const float d = load_half(source);
    for (int part = 0; part < 32; ++part) {
      const int high = load<std::uint16_t>(source + 34 + part / 4 * 2);
      const float scale = d * static_cast<float>(2 * ((high >> 12) & 7) + 1);
      const float shift = (high & 0x8000) != 0 ? -0.125f : 0.125f;
      const float* row = grid + 8 * (source[2 + part] | ((high >> (part % 4 * 3)) & 7) << 8);
      for (int e = 0; e < 8; ++e) {
        out[part * 8 + e] = scale * (row[e] + shift);
      }
    }
  }
}

void iq1_m(const std::uint8_t* source, std::int64_t blocks, float* out) {
  const float* grid = grid_iq1_s();
  for (std::int64_t block = 0; block < blocks; ++block, source += 56, out += 256) {
    unsigned bits = 0;  // the scale's four nibbles are the top ones of four words
    for (int word = 0; word < 4; ++word) {
      bits |= static_cast<unsigned>(source[49 + 2 * word] >> 4) << (4 * word);
    }
    const float d = from_half(static_cast<std::uint16_t>(bits));
    for (int part = 0; part < 32; ++part) {
      const int high = source[32 + part / 2] >> (part % 2 * 4);
      const int word = load<std::uint16_t>(source + 48 + part / 8 * 2);
      const float scale = d * static_cast<float>(2 * ((word >> (part / 2 % 4 * 3)) & 7) + 1);
      const float shift = (high & 8) != 0 ? -0.125f : 0.125f;
      const float* row = grid + 8 * (source[part] | (high & 7) << 8);
      for (int e = 0; e < 8; ++e) {
        out[part * 8 + e] = scale * (row[e] + shift);
      }
    }
  }
}

void iq4_nl(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 18, out += 32) {
    const float d = load_half(source);
    for (int e = 0; e < 16; ++e) {
      out[e] = d * iq4_levels[source[2 + e] & 15];
      out[e + 16] = d * iq4_levels[source[2 + e] >> 4];
    }
  }
}

void iq4_xs(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 136, out += 256) {
    const float d = load_half(source);
    const int high = load<std::uint16_t>(source + 2);
    for (int group = 0; group < 8; ++group) {
      const int low = (source[4 + group / 2] >> (group % 2 * 4)) & 15;
      const float scale = d * static_cast<float>((low | ((high >> (2 * group)) & 3) << 4) - 32);
      const std::uint8_t* quants = source + 8 + group * 16;
      for (int e = 0; e < 16; ++e) {
        out[group * 32 + e] = scale * iq4_levels[quants[e] & 15];
        out[group * 32 + e + 16] = scale * iq4_levels[quants[e] >> 4];
      }
    }
  }
}

void tq1_0(const std::uint8_t* source, std::int64_t blocks, float* out) {
  // Five ternary digits to a byte, read by multiplying with a power of 3 modulo 256.
  constexpr unsigned powers[] = {1, 3, 9, 27, 81};
  struct Run {
    int from, bytes, digits;
  };
  constexpr Run runs[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
  for (std::int64_t block = 0; block < blocks; ++block, source += 54, out += 256) {
    const float d = load_half(source + 52);
    float* next = out;
    for (const Run& run : runs) {
      for (int digit = 0; digit < run.digits; ++digit) {
        for (int byte = 0; byte < run.bytes; ++byte) {
          *next++ = d * ternary(source[run.from + byte] * powers[digit] & 255u);
        }
      }
    }
  }
}

void tq2_0(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 66, out += 256) {
    const float d = load_half(source + 64);
    for (int e = 0; e < 256; ++e) {
      out[e] =
          d * static_cast<float>(((source[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2)) & 3) - 1);
    }
  }
}

void mxfp4(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 17, out += 32) {
    // 2^(e - 128): half of the microscaling exponent, since the levels are doubled.
    const std::uint32_t exponent = source[0];
    const float d =
        std::bit_cast<float>(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23);
    for (int e = 0; e < 16; ++e) {
      out[e] = d * e2m1_doubled[source[1 + e] & 15];
      out[e + 16] = d * e2m1_doubled[source[1 + e] >> 4];
    }
  }
}

void nvfp4(const std::uint8_t* source, std::int64_t blocks, float* out) {
  for (std::int64_t block = 0; block < blocks; ++block, source += 36) {
    for (int part = 0; part < 4; ++part, out += 16) {
      // Unsigned E4M3, bias 7, its top bit unused; halved, since the levels are doubled.
      const int exponent = (source[part] >> 3) & 15;
      const int fraction = source[part] & 7;
      const float scale = exponent == 0
                              ? std::ldexp(static_cast<float>(fraction), -10)
                              : std::ldexp(static_cast<float>(8 + fraction), exponent - 11);
      const float d = source[part] == 0x7F ? 0.0f : scale;  // NaN's code counts as none
      const std::uint8_t* levels = source + 4 + 8 * part;
      for (int e = 0; e < 8; ++e) {
        out[e] = d * e2m1_doubled[levels[e] & 15];
        out[e + 8] = d * e2m1_doubled[levels[e] >> 4];
      }
    }
  }
}

}  // namespace kvscope
