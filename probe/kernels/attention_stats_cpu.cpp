#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention_impl.h"
#include "attention_targets.h"
#include "packed_keys.h"

namespace kvscope::detail {
namespace {

/// At most so many partial planes of the per-query sums; each is one task of a KV head.
constexpr std::int64_t max_partitions = 16;

struct Plan {
  std::int64_t query_heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t rows = 0;
  std::int64_t tokens = 0;
  std::int64_t head_dim = 0;
  std::int64_t group = 0;
  std::int64_t stripes = 0;
  std::int64_t stripes_of_task = 0;
  std::int64_t partitions = 0;  ///< tasks of one KV head
};

Plan make_plan(const at::Tensor& queries, const at::Tensor& keys) {
  Plan plan;
  plan.query_heads = queries.size(0);
  plan.rows = queries.size(1);
  plan.head_dim = queries.size(2);
  plan.kv_heads = keys.size(0);
  plan.tokens = keys.size(1);
  plan.group = plan.query_heads / plan.kv_heads;
  plan.stripes = (plan.tokens + tile::stripe_keys - 1) / tile::stripe_keys;
  plan.stripes_of_task =
      std::max<std::int64_t>(1, (plan.stripes + max_partitions - 1) / max_partitions);
  plan.partitions = (plan.stripes + plan.stripes_of_task - 1) / plan.stripes_of_task;
  return plan;
}

/// Joins the segments of one stripe in order.
void add_columns(const Plan& plan, const ColumnTargets& targets, const float* columns,
                 std::int64_t kv_head, std::int64_t first_key, std::int64_t keys) {
  for (int segment = 0; segment < targets.segments(); ++segment) {
    for (std::int64_t head = 0; head < plan.group; ++head) {
      const float* sum = columns + (segment * plan.group + head) * 3 * tile::stripe_keys;
      targets.add(segment, kv_head * plan.group + head, first_key, keys, sum,
                  sum + tile::stripe_keys, sum + 2 * tile::stripe_keys);
    }
  }
}

/// lse in units of log 2; +inf where the row sees nothing, which makes its probabilities 0.
std::vector<float> lse_in_log2(const at::Tensor& lse, const Plan& plan) {
  const at::Tensor dense = lse.contiguous();
  const float* natural = dense.const_data_ptr<float>();
  std::vector<float> base2(static_cast<std::size_t>(plan.query_heads * plan.rows));
  for (std::size_t i = 0; i < base2.size(); ++i) {
    base2[i] = std::isinf(natural[i]) && natural[i] < 0 ? std::numeric_limits<float>::infinity()
                                                        : static_cast<float>(natural[i] * log2_e);
  }
  return base2;
}

/// -ln 2 * sum over partitions of p log2 p, in order.
at::Tensor join_entropy(const Plan& plan, const std::vector<float>& p_log_p) {
  at::Tensor entropy = at::empty({plan.query_heads, plan.rows}, at::kFloat);
  float* to = entropy.mutable_data_ptr<float>();
  for (std::int64_t head = 0; head < plan.query_heads; ++head) {
    for (std::int64_t row = 0; row < plan.rows; ++row) {
      double sum = 0;
      for (std::int64_t part = 0; part < plan.partitions; ++part) {
        sum +=
            p_log_p[static_cast<std::size_t>((part * plan.query_heads + head) * plan.rows + row)];
      }
      to[head * plan.rows + row] = sum > 0 ? 0.0f : static_cast<float>(-ln_2 * sum);
    }
  }
  return entropy;
}

/// The column pass itself: one task for each KV head and partition of its stripes.
void column_pass(const Plan& plan, const at::Tensor& queries, const PackedKeys& packed,
                 const std::vector<float>& lse, const AttentionStatsOptions& options,
                 const ColumnTargets& targets, std::vector<float>& p_log_p,
                 const tile::Functions& functions) {
  const int segments = targets.segments();
  const float* first_query = queries.const_data_ptr<float>();
  run_tasks(plan.kv_heads * plan.partitions, [&](std::int64_t index) {
    // Early keys are seen by most queries: their tasks come first.
    const std::int64_t part = index / plan.kv_heads;
    const std::int64_t kv_head = index % plan.kv_heads;
    std::vector<float> columns(
        static_cast<std::size_t>(segments * plan.group * 3 * tile::stripe_keys));
    std::vector<float> scratch(static_cast<std::size_t>(tile::block_rows) * 16);
    const std::int64_t end = std::min(plan.stripes, (part + 1) * plan.stripes_of_task);
    for (std::int64_t stripe = part * plan.stripes_of_task; stripe < end; ++stripe) {
      const std::int64_t first_key = stripe * tile::stripe_keys;
      std::fill(columns.begin(), columns.end(), 0.0f);
      tile::ColumnTask task;
      task.queries = first_query + kv_head * plan.group * queries.stride(0);
      task.head_stride = queries.stride(0);
      task.row_stride = queries.stride(1);
      task.packed = packed.at(kv_head, first_key, plan.head_dim);
      task.lse = lse.data() + kv_head * plan.group * plan.rows;
      task.rule = logit_rule(options.scale, options.softcap);
      task.head_dim = static_cast<int>(plan.head_dim);
      task.group = static_cast<int>(plan.group);
      task.rows = static_cast<int>(plan.rows);
      task.row_position = options.first_query - first_key;
      task.keys =
          static_cast<int>(std::min<std::int64_t>(tile::stripe_keys, plan.tokens - first_key));
      task.window = options.window;
      task.bounds = targets.bounds().data();
      task.segments = segments;
      task.columns = columns.data();
      task.scratch = scratch.data();
      if (options.entropy) {
        task.p_log_p =
            p_log_p.data() + (part * plan.query_heads + kv_head * plan.group) * plan.rows;
        task.p_log_p_stride = plan.rows;
      }
      functions.columns(task);
      add_columns(plan, targets, columns.data(), kv_head, first_key, task.keys);
    }
  });
}

}  // namespace

AttentionStats attention_stats_cpu(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& lse, const AttentionStatsOptions& options,
                                   const tile::Functions& functions) {
  const Plan plan = make_plan(queries, keys);
  AttentionStats stats;
  stats.lse = lse;
  if (!lse.defined()) {
    AttentionOptions forward;
    forward.scale = options.scale;
    forward.softcap = options.softcap;
    forward.window = options.window;
    forward.first_query = options.first_query;
    stats.lse = attention_with_lse_cpu(queries, keys, {}, {}, {}, forward, functions).lse;
  }
  const ColumnTargets targets(plan.query_heads, plan.rows, plan.tokens, options);
  std::vector<float> p_log_p;
  if (options.entropy) {
    p_log_p.resize(static_cast<std::size_t>(plan.partitions * plan.query_heads * plan.rows));
  }
  if (targets.any() || options.entropy) {
    const float factor = logit_rule(options.scale, options.softcap).key_factor;
    const PackedKeys packed = pack_keys(keys, factor, functions);
    column_pass(plan, queries, packed, lse_in_log2(stats.lse, plan), options, targets, p_log_p,
                functions);
  }
  if (options.entropy) {
    stats.entropy = join_entropy(plan, p_log_p);
  }
  targets.store(stats);
  if (options.columns) {
    stats.self_check = self_check(stats.sum, rows_that_see(plan.rows, plan.tokens, options));
  }
  return stats;
}

}  // namespace kvscope::detail
