#include "matrix_vector.h"

#include <cstring>
#include <vector>

#include "block_dot.h"
#include "instruction_set.h"
#include "row_loops.h"
#include "row_ranges.h"

namespace kvscope::detail {
namespace {

#define KVSCOPE_INLINE inline __attribute__((always_inline))

constexpr std::int64_t width = 16;
constexpr std::int64_t step = 2 * width;  ///< columns of one turn of the inner loop

// Registers by reference only: passing them by value would depend on the instruction set.
using Floats = float __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));

/// `step` weights as two registers, which meet x in the order of `arrange`.
KVSCOPE_INLINE void load_step(const float* from, Floats& first, Floats& second) {
  std::memcpy(&first, from, sizeof(first));
  std::memcpy(&second, from + width, sizeof(second));
}
/// Two bfloat16 share a word: the even one below, the odd one above.
KVSCOPE_INLINE void load_step(const Bf16* from, Floats& first, Floats& second) {
  Words words;
  std::memcpy(&words, from, sizeof(words));
  const Words even = words << 16;
  const Words odd = words & 0xffff0000u;
  std::memcpy(&first, &even, sizeof(first));
  std::memcpy(&second, &odd, sizeof(second));
}

/// x as the loops read it: bfloat16 weights want the even columns of each step before the odd ones.
template <typename T>
std::vector<float> arrange(const float* x, std::int64_t columns) {
  std::vector<float> arranged(x, x + columns);
  if (sizeof(T) == sizeof(float)) {
    return arranged;
  }
  for (std::int64_t first = 0; first + step <= columns; first += step) {
    float* to = arranged.data() + first;
    for (std::int64_t pair = 0; pair < width; ++pair) {
      to[pair] = x[first + 2 * pair];
      to[pair + width] = x[first + 2 * pair + 1];
    }
  }
  return arranged;
}

KVSCOPE_INLINE float value_of(float value) {
  return value;
}
KVSCOPE_INLINE float value_of(Bf16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

KVSCOPE_INLINE float sum_of(const Floats& lanes) {
  float part[width];
  std::memcpy(part, &lanes, sizeof(part));
  for (std::int64_t half = width / 2; half > 0; half /= 2) {
    for (std::int64_t lane = 0; lane < half; ++lane) {
      part[lane] += part[lane + half];
    }
  }
  return part[0];
}

/// `count` rows at once (a constant where it is called), so that x is read once for all of them.
/// The rows are short streams, so the next ones are fetched by hand.
template <int count, typename T>
KVSCOPE_INLINE void dot_block(const T* weight, const float* x, std::int64_t columns, float* out) {
  Floats even[count] = {};
  Floats odd[count] = {};
  std::int64_t column = 0;
  for (; column + step <= columns; column += step) {
    Floats first;
    Floats second;
    load_step(x + column, first, second);
    for (int row = 0; row < count; ++row) {
      const T* at = weight + row * columns + column;
      __builtin_prefetch(at + count * columns);
      __builtin_prefetch(at + count * columns + 64 / sizeof(T));
      Floats low;
      Floats high;
      load_step(at, low, high);
      even[row] += low * first;
      odd[row] += high * second;
    }
  }
  for (int row = 0; row < count; ++row) {
    float rest = 0;
    for (std::int64_t tail = column; tail < columns; ++tail) {
      rest += value_of(weight[row * columns + tail]) * x[tail];
    }
    out[row] = sum_of(even[row] + odd[row]) + rest;
  }
}

template <typename T>
KVSCOPE_INLINE void dot_rows_body(const T* weight, const float* x, std::int64_t rows,
                                  std::int64_t columns, float* out) {
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    dot_block<4>(weight + row * columns, x, columns, out + row);
  }
  for (; row < rows; ++row) {
    dot_block<1>(weight + row * columns, x, columns, out + row);
  }
}

template <typename T>
using DotRows = void (*)(const T*, const float*, std::int64_t, std::int64_t, float*);

#define KVSCOPE_DOT_ROWS(NAME, TARGET)                                                       \
  template <typename T>                                                                      \
  TARGET void NAME(const T* weight, const float* x, std::int64_t rows, std::int64_t columns, \
                   float* out) {                                                             \
    dot_rows_body(weight, x, rows, columns, out);                                            \
  }

KVSCOPE_DOT_ROWS(dot_rows_plain, )
#if defined(__x86_64__)
KVSCOPE_DOT_ROWS(dot_rows_avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))))
#endif

template <typename T>
DotRows<T> chosen() {
#if defined(__x86_64__)
  static const DotRows<T> loop = has_avx512() ? dot_rows_avx512<T> : dot_rows_plain<T>;
  return loop;
#else
  return dot_rows_plain<T>;
#endif
}

/// On narrower registers (a compiler keeps vectors of 64 bytes in memory then) the loops of stored
/// types serve, which GGUF numbers 0 for float32 and 30 for bfloat16; nullptr without one.
template <typename T>
BlockDot blocks_of(std::int64_t columns) {
#if defined(__x86_64__)
  static const bool wide = has_avx512();
  return wide ? nullptr : block_dot(*block_type(sizeof(T) == sizeof(float) ? 0 : 30), columns);
#else
  return nullptr;
#endif
}

template <typename T>
void run(const T* weight, const float* x, std::int64_t rows, std::int64_t columns, float* out) {
  const BlockDot blocks = blocks_of<T>(columns);
  const std::vector<float> arranged =
      blocks != nullptr ? std::vector<float>(x, x + columns) : arrange<T>(x, columns);
  for_row_ranges(rows, columns, [&](std::int64_t first, std::int64_t last) {
    const T* at = weight + first * columns;
    if (blocks != nullptr) {
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(at);
      blocks(bytes, arranged.data(), last - first, columns, out + first);
    } else {
      chosen<T>()(at, arranged.data(), last - first, columns, out + first);
    }
  });
}

}  // namespace

void dot_rows(const float* weight, const float* x, std::int64_t rows, std::int64_t columns,
              float* out) {
  if (const BlockDot blocks = blocks_of<float>(columns)) {
    blocks(reinterpret_cast<const std::uint8_t*>(weight), x, rows, columns, out);
    return;
  }
  chosen<float>()(weight, x, rows, columns, out);
}

void matrix_vector(const at::Tensor& weight, const at::Tensor& x, at::Tensor& out) {
  const std::int64_t rows = weight.size(0);
  const std::int64_t columns = weight.size(1);
  const at::Tensor values = x.to(at::kFloat);
  const auto* vector = values.const_data_ptr<float>();
  auto* result = out.mutable_data_ptr<float>();
  if (weight.scalar_type() == at::kFloat) {
    run(weight.const_data_ptr<float>(), vector, rows, columns, result);
  } else {
    run(static_cast<const Bf16*>(weight.const_data_ptr()), vector, rows, columns, result);
  }
}

}  // namespace kvscope::detail
