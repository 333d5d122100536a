#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "attention_checks.h"
#include "attention_impl.h"
#include "attention_inputs.h"
#include "attention_targets.h"
#include "kvscope/core/error.h"
#include "streamed_stats.h"

namespace kvscope {
namespace detail {
namespace {

/// At most so many tasks of one KV head share the rows of a segment; each has planes of its own.
constexpr std::int64_t max_parts = 8;
/// Weights of so many bytes stay in the outer cache until they are folded.
constexpr std::int64_t kept_bytes = std::int64_t{1} << 20;
constexpr std::int64_t least_rows = 24;

/// Some blocks of one segment's rows for one KV head.
struct Unit {
  std::int64_t kv_head = 0;
  int segment = 0;
  int first = 0;  ///< rows [first, end) of the segment
  int end = 0;
  std::int64_t block_rows = 0;
  std::int64_t part = 0;
  std::int64_t parts = 1;
  bool counted = false;       ///< some plane counts the rows
  std::vector<float> planes;  ///< [group][3][columns] sum, squares, maximum; empty: not counted
};

/// Work space of a unit.
struct Room {
  std::unique_ptr<float[]> scratch;
  std::unique_ptr<float[]> weights;  ///< [stripes][block rows][stripe_keys]
  std::unique_ptr<float[]> factors;  ///< [stripes][forward_rows]
};

class FusedPass {
 public:
  FusedPass(const ForwardInputs& in, const AttentionResult& result, const ColumnTargets& targets,
            float* entropy, const tile::Functions& functions)
      : in_(in),
        result_(result),
        targets_(targets),
        entropy_(entropy),
        functions_(functions),
        packed_(pack_keys(in.keys, in.rule.key_factor, functions)),
        columns_((in.tokens + tile::stripe_keys - 1) / tile::stripe_keys * tile::stripe_keys) {
    const std::int64_t fit = kept_bytes / 4 / std::max<std::int64_t>(1, columns_);
    kept_rows_ = std::clamp<std::int64_t>(fit / 12 * 12, least_rows, tile::forward_rows);
  }

  void run() {
    add_units(-1, 0, targets_.bounds().front());
    for (int segment = 0; segment < targets_.segments(); ++segment) {
      const auto index = static_cast<std::size_t>(segment);
      add_units(segment, targets_.bounds()[index], targets_.bounds()[index + 1]);
    }
    run_tasks(std::ssize(units_),
              [&](std::int64_t index) { run_unit(units_[static_cast<std::size_t>(index)]); });
    for (const Unit& unit : units_) {  // in the order of segments and parts
      add_planes(unit);
    }
  }

 private:
  /// Rows before the first bound are segment -1.
  void add_units(int segment, int first, int end) {
    Unit unit;
    unit.segment = segment;
    unit.first = first;
    unit.end = end;
    unit.counted = segment >= 0 && targets_.counts(segment);
    unit.block_rows = unit.counted ? kept_rows_ : tile::forward_rows;
    unit.parts = std::min(max_parts, (end - first + unit.block_rows - 1) / unit.block_rows);
    for (unit.part = 0; unit.part < unit.parts; ++unit.part) {
      for (unit.kv_head = 0; unit.kv_head < in_.kv_heads; ++unit.kv_head) {
        units_.push_back(unit);
      }
    }
  }

  Room room_for(const Unit& unit) const {
    const auto floats = [](std::int64_t count) {
      return std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(count));
    };
    Room room;
    room.scratch =
        floats(tile::forward_scratch(static_cast<int>(in_.group), static_cast<int>(in_.value_dim)));
    if (unit.counted) {
      room.weights = floats(tile::kept_weights(columns_, unit.block_rows));
      room.factors = floats(columns_ / tile::stripe_keys * tile::forward_rows);
    }
    return room;
  }

  /// Late rows see more keys: parts take blocks to and fro, so that all have as much to do.
  void run_unit(Unit& unit) const {
    const std::int64_t blocks = (unit.end - unit.first + unit.block_rows - 1) / unit.block_rows;
    Room room = room_for(unit);
    if (unit.counted) {
      unit.planes.resize(static_cast<std::size_t>(in_.group * 3 * columns_));
    }
    for (std::int64_t round = 0; round * unit.parts < blocks; ++round) {
      const std::int64_t turn = round % 2 == 0 ? unit.part : unit.parts - 1 - unit.part;
      const std::int64_t block = round * unit.parts + turn;
      if (block < blocks) {
        run_block(unit, unit.first + block * unit.block_rows, room);
      }
    }
  }

  /// One head at a time where weights are kept, else the group at once.
  void run_block(Unit& unit, std::int64_t first_row, Room& room) const {
    const std::int64_t count = std::min<std::int64_t>(unit.block_rows, unit.end - first_row);
    const std::int64_t heads = unit.counted ? 1 : in_.group;
    for (std::int64_t head = 0; head < in_.group; head += heads) {
      const std::int64_t first_head = unit.kv_head * in_.group + head;
      tile::ForwardTask task =
          forward_task(in_, result_, packed_, first_head, heads, first_row, count);
      task.scratch = room.scratch.get();
      task.entropy = entropy_ == nullptr ? nullptr : entropy_ + first_head * in_.rows + first_row;
      if (unit.counted) {
        task.weights = room.weights.get();
        task.factors = room.factors.get();
      }
      functions_.forward(task);
      if (unit.counted) {
        fold(task, unit.planes.data() + head * 3 * columns_);
      }
    }
  }

  /// Adds the kept weights of one head's block to its planes [3][columns].
  void fold(const tile::ForwardTask& task, float* planes) const {
    const int begin = *std::min_element(task.first_visible, task.first_visible + task.rows);
    const int end = *std::max_element(task.end_visible, task.end_visible + task.rows);
    for (std::int64_t stripe = begin / tile::stripe_keys; stripe * tile::stripe_keys < end;
         ++stripe) {
      tile::FoldTask fold;
      fold.weights = task.weights + stripe * task.rows * tile::stripe_keys;
      fold.factors = task.factors + stripe * tile::forward_rows;
      fold.rows = task.rows;
      fold.sum = planes + stripe * tile::stripe_keys;
      fold.squares = fold.sum + columns_;
      fold.largest = fold.squares + columns_;
      functions_.fold(fold);
    }
  }

  void add_planes(const Unit& unit) const {
    for (std::int64_t head = 0; !unit.planes.empty() && head < in_.group; ++head) {
      const float* sum = unit.planes.data() + head * 3 * columns_;
      targets_.add(unit.segment, unit.kv_head * in_.group + head, 0, in_.tokens, sum,
                   sum + columns_, sum + 2 * columns_);
    }
  }

  const ForwardInputs& in_;
  const AttentionResult& result_;
  const ColumnTargets& targets_;
  float* entropy_;
  const tile::Functions& functions_;
  PackedKeys packed_;
  std::int64_t columns_;  ///< tokens in whole stripes
  std::int64_t kept_rows_ = 0;
  std::vector<Unit> units_;
};

AttentionOptions forward_options(const AttentionStatsOptions& options, std::int64_t rows) {
  AttentionOptions forward;
  forward.scale = options.scale;
  forward.softcap = options.softcap;
  forward.window = options.window;
  forward.first_query = options.first_query;
  forward.causal_tail = static_cast<int>(rows);
  return forward;
}

}  // namespace

AttentionPass attention_with_stats_cpu(const at::Tensor& queries, const at::Tensor& keys,
                                       const at::Tensor& values, const at::Tensor& multiplicity,
                                       const at::Tensor& length, const AttentionStatsOptions& asked,
                                       const tile::Functions& functions) {
  AttentionStatsOptions options = asked;
  options.last_query = asked.last_query || (asked.last_top > 0 && queries.size(1) > few_rows);
  const ForwardInputs in(queries, keys, values, multiplicity, length,
                         forward_options(options, queries.size(1)));
  const AttentionResult result = empty_result(in);
  const ColumnTargets targets(in.query_heads, in.rows, in.tokens, options);
  AttentionPass pass{result.output, {}};
  AttentionStats& stats = pass.stats;
  stats.lse = result.lse;
  if (options.entropy) {
    stats.entropy = at::empty({in.query_heads, in.rows}, at::kFloat);
  }
  float* entropy = options.entropy ? stats.entropy.mutable_data_ptr<float>() : nullptr;
  if (in.rows > few_rows) {
    FusedPass(in, result, targets, entropy, functions).run();
  } else if (in.rows > 0) {
    StreamedStats streamed(in, options, targets, stats);
    streamed_forward(in, result, streamed.watch(entropy), functions);
  }
  targets.store(stats);
  if (options.columns) {
    stats.self_check = self_check(stats.sum, rows_that_see(in.rows, in.tokens, options));
  }
  return pass;
}

}  // namespace detail

AttentionPass attention_with_stats(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& values, const at::Tensor& multiplicity,
                                   const at::Tensor& length, const AttentionStatsOptions& options) {
  constexpr const char* where = "attention_with_stats";
  const std::int64_t rows = queries.defined() && queries.dim() == 3 ? queries.size(1) : 0;
  const AttentionOptions forward = detail::forward_options(options, rows);
  const at::Tensor live =
      detail::check_forward(queries, keys, values, multiplicity, length, forward, where);
  detail::check_stats_options(options, where);
  if (!queries.is_cpu()) {
    KVSCOPE_CHECK(!multiplicity.defined() && !length.defined(), ErrorCode::unsupported,
                  "statistics of a compressed cache elsewhere than on the CPU", where,
                  "pass --device cpu");
    const AttentionResult result =
        detail::attention_with_lse_plain(queries, keys, values, {}, {}, forward);
    AttentionStatsOptions plane = options;
    plane.last_query = options.last_query || options.last_top > 0;
    return {result.output,
            attention_stats(queries.to(at::kFloat), keys.to(at::kFloat), result.lse, plane)};
  }
  AttentionPass pass = detail::attention_with_stats_cpu(
      detail::with_dense_rows(queries.to(at::kFloat)), detail::cache_operand(keys, rows),
      detail::cache_operand(values, rows), multiplicity, live, options, tile::functions());
  pass.output = pass.output.to(queries.scalar_type());
  return pass;
}

}  // namespace kvscope
