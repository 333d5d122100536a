#pragma once

#include <cstdint>

#include "kvscope/kernels/ranked_value.h"

namespace kvscope::tile {

/// Keys of one stripe: the unit in which partial results are folded. A multiple of every tile
/// width.
inline constexpr int stripe_keys = 256;
/// Query rows handled between two folds: a multiple of every register tile's height.
inline constexpr int block_rows = 240;
/// Query heads of one KV head, at most.
inline constexpr int max_group = 128;
/// Query rows of one forward task.
inline constexpr int forward_rows = 96;
/// Keys of one row task; a multiple of every vector width.
inline constexpr int row_keys = 256;
inline constexpr int row_maxima = row_keys / ScaledValues::group;
/// Values that can be ranked at once.
inline constexpr int most_ranked = 128;
/// What a row task says of a head before the values: maximum (log2 units), sum of the weights, sum
/// of weight times (logit - maximum).
inline constexpr int row_state = 3;

/// Keys of one KV head in the order the register tiles read them: [tiles][head_dim][tile_keys],
/// multiplied by `factor`; lanes beyond the last key are zero.
struct PackTask {
  const float* keys = nullptr;  ///< first key
  std::int64_t key_stride = 0;
  int count = 0;
  int head_dim = 0;
  float factor = 1;
  float* packed = nullptr;
};

/// From a dot product with packed keys to a logit in units of log 2.
struct LogitRule {
  float key_factor = 1;  ///< what packed keys were multiplied by
  float cap = 0;         ///< softcap * log2(e), 0 = none: logit = cap * tanh(dot)
};

/// Columns of one stripe of one KV head, over all queries of its group.
struct ColumnTask {
  const float* queries = nullptr;  ///< row 0 of the group's first head
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;
  const float* packed = nullptr;  ///< of this stripe
  const float* lse = nullptr;     ///< [group][rows] log2 units, +inf for rows that see nothing
  LogitRule rule;
  int head_dim = 0;
  int group = 0;
  int rows = 0;
  std::int64_t row_position = 0;  ///< of row 0, counted from the stripe's first key
  int keys = 0;                   ///< keys of this stripe
  int window = 0;
  const int* bounds = nullptr;  ///< [segments + 1] row bounds; rows before bounds[0] are left out
  int segments = 0;
  float* columns = nullptr;  ///< [segments][group][3][stripe_keys] sum, squares, maximum; added to
  float* p_log_p = nullptr;  ///< [group] rows: sum of p * log2 p, added to; null = not wanted
  std::int64_t p_log_p_stride = 0;
  float* scratch = nullptr;  ///< block_rows * 16 floats
};

/// Attention of up to forward_rows queries of every head of a group over all keys.
struct ForwardTask {
  const float* queries = nullptr;
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;
  const float* packed = nullptr;  ///< of key 0
  const float* values = nullptr;  ///< null: LSE only
  std::int64_t value_stride = 0;
  const float* bias = nullptr;  ///< [keys] log2 of the multiplicity, or null
  LogitRule rule;
  int head_dim = 0;
  int value_dim = 0;
  int group = 0;
  int rows = 0;
  const int* first_visible = nullptr;  ///< [rows]
  const int* end_visible = nullptr;    ///< [rows]; keys in [first, end) are seen
  float* output = nullptr;             ///< row 0 of the group's first head
  std::int64_t output_head_stride = 0;
  std::int64_t output_row_stride = 0;
  float* lse = nullptr;  ///< natural; -inf where nothing is seen
  std::int64_t lse_head_stride = 0;
  float* entropy = nullptr;  ///< nats, as `lse`; null = not wanted
  /// Kept for column statistics, of a group of one head: [stripes][rows][stripe_keys] weights as
  /// the running softmax had them, 0 where nothing is seen; kept_weights(...) floats; null = not
  /// kept.
  float* weights = nullptr;
  float* factors = nullptr;  ///< [stripes][forward_rows] weight times factor is the probability
  float* scratch = nullptr;  ///< forward_scratch(...) floats
};

/// Weights of one stripe, as a forward task kept them, to be added to the columns.
struct FoldTask {
  const float* weights = nullptr;  ///< [rows][stripe_keys]
  const float* factors = nullptr;  ///< [rows]
  int rows = 0;
  float* sum = nullptr;      ///< [stripe_keys] added to
  float* squares = nullptr;  ///< likewise
  float* largest = nullptr;  ///< [stripe_keys]
};

/// A few queries of every head of a group over at most row_keys keys [first_key, end_key), without
/// packing.
struct RowTask {
  const float* queries = nullptr;
  std::int64_t head_stride = 0;
  bool bfloat16 = false;       ///< keys and values are bfloat16, else float
  const void* keys = nullptr;  ///< of key 0
  std::int64_t key_stride = 0;
  const void* values = nullptr;  ///< likewise; null: LSE only
  std::int64_t value_stride = 0;
  const float* bias = nullptr;
  LogitRule rule;
  int head_dim = 0;
  int value_dim = 0;
  int group = 0;
  int first_key = 0;
  int end_key = 0;
  float* partial = nullptr;  ///< [group][row_state + value_dim], see there; then weighted values
  float* weights = nullptr;  ///< [group][row_keys] exp2(logit - maximum)
  float* maxima = nullptr;   ///< [group][row_maxima] of groups of weights, or null
};

/// Dot products of rows with one tile of packed keys.
struct DotTask {
  const float* packed = nullptr;
  const float* rows = nullptr;
  std::int64_t row_stride = 0;
  int count = 0;
  int head_dim = 0;
  float* out = nullptr;  ///< [count][tile_keys]
};

inline std::int64_t forward_scratch(int group, int value_dim) {
  const std::int64_t padded = (value_dim + 31) / 32 * 32;
  return 12 * stripe_keys + stripe_keys * padded +
         static_cast<std::int64_t>(group) * forward_rows * (padded + row_state) + 64;
}

/// Floats of the kept weights of so many rows over so many columns, whole stripes: register tiles
/// read whole, so that there is room behind the last row.
inline std::int64_t kept_weights(std::int64_t columns, std::int64_t rows) {
  return columns * rows + std::int64_t{12} * stripe_keys;
}

/// The inner loops for one instruction set.
struct Functions {
  const char* name;
  int tile_keys;
  void (*pack)(const PackTask& task);
  void (*columns)(const ColumnTask& task);
  void (*forward)(const ForwardTask& task);
  void (*fold)(const FoldTask& task);
  void (*rows)(const RowTask& task);
  void (*dots)(const DotTask& task);
  // What the largest of many numbers are found with: see tile/top.h.
  void (*group_maxima)(const float* values, std::int64_t count, float* maxima);
  float (*sum_of_exp)(const float* values, std::int64_t count, float largest);
  float (*level)(const float* values, std::int64_t count, std::int64_t wanted);
  std::int64_t (*gather)(const ScaledValues& piece, float level, float* numbers,
                         std::int32_t* first_index);
  std::int64_t (*list)(const float* numbers, const std::int32_t* first_index, std::int64_t groups,
                       float level, RankedValue* to, std::int64_t room);
  void (*rank)(const RankedValue* values, int count, int wanted, RankedValue* to);
};

const Functions& portable_functions();
const Functions* avx2_functions();    ///< null where not compiled in
const Functions* avx512_functions();  ///< null where not compiled in

/// The widest set this processor runs, chosen once.
const Functions& functions();

}  // namespace kvscope::tile
