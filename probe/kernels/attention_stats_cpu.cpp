#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention_impl.h"
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
  std::vector<int> bounds;      ///< row bounds of the segments, ascending
};

/// Queries are cut where an observation window or the last query begins, so that one pass serves
/// all.
Plan make_plan(const at::Tensor& queries, const at::Tensor& keys,
               const AttentionStatsOptions& options) {
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
  const int rows = static_cast<int>(plan.rows);
  plan.bounds = {rows};
  for (const int window : options.windows) {
    plan.bounds.push_back(std::max(0, rows - window));
  }
  if (options.last_query) {
    plan.bounds.push_back(std::max(0, rows - 1));
  }
  if (options.columns || options.entropy) {
    plan.bounds.push_back(0);
  }
  std::sort(plan.bounds.begin(), plan.bounds.end());
  plan.bounds.erase(std::unique(plan.bounds.begin(), plan.bounds.end()), plan.bounds.end());
  return plan;
}

/// The planes of one population of queries: segments first_segment and later.
struct Target {
  int first_segment = 0;
  at::Tensor sum;
  at::Tensor squares;
  at::Tensor largest;
};

Target make_target(const Plan& plan, int first_row) {
  Target target;
  target.first_segment = static_cast<int>(
      std::find(plan.bounds.begin(), plan.bounds.end(), first_row) - plan.bounds.begin());
  target.sum = at::zeros({plan.query_heads, plan.tokens}, at::kFloat);
  target.squares = at::zeros({plan.query_heads, plan.tokens}, at::kFloat);
  target.largest = at::zeros({plan.query_heads, plan.tokens}, at::kFloat);
  return target;
}

/// Joins the segments of one stripe in order and writes the planes.
void write_columns(const Plan& plan, const Target& target, const float* columns,
                   std::int64_t kv_head, std::int64_t first_key, std::int64_t keys) {
  const int segments = static_cast<int>(plan.bounds.size()) - 1;
  for (std::int64_t head = 0; head < plan.group; ++head) {
    const std::int64_t at = (kv_head * plan.group + head) * plan.tokens + first_key;
    float* sum = target.sum.mutable_data_ptr<float>() + at;
    float* squares = target.squares.mutable_data_ptr<float>() + at;
    float* largest = target.largest.mutable_data_ptr<float>() + at;
    for (int segment = target.first_segment; segment < segments; ++segment) {
      const float* from = columns + (segment * plan.group + head) * 3 * tile::stripe_keys;
      for (std::int64_t key = 0; key < keys; ++key) {
        sum[key] += from[key];
        squares[key] += from[tile::stripe_keys + key];
        largest[key] = std::max(largest[key], from[2 * tile::stripe_keys + key]);
      }
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

at::Tensor self_check(const Plan& plan, const at::Tensor& sum, std::int64_t rows) {
  at::Tensor residual = at::zeros({plan.query_heads}, at::kFloat);
  const float* from = sum.const_data_ptr<float>();
  for (std::int64_t head = 0; head < plan.query_heads && rows > 0; ++head) {
    double total = 0;
    for (std::int64_t key = 0; key < plan.tokens; ++key) {
      total += from[head * plan.tokens + key];
    }
    residual.mutable_data_ptr<float>()[head] =
        static_cast<float>(std::abs(total - static_cast<double>(rows)) / static_cast<double>(rows));
  }
  return residual;
}

/// The column pass itself: one task for each KV head and partition of its stripes.
void column_pass(const Plan& plan, const at::Tensor& queries, const PackedKeys& packed,
                 const std::vector<float>& lse, const AttentionStatsOptions& options,
                 const std::vector<Target>& targets, std::vector<float>& p_log_p,
                 const tile::Functions& functions) {
  const int segments = static_cast<int>(plan.bounds.size()) - 1;
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
      task.bounds = plan.bounds.data();
      task.segments = segments;
      task.columns = columns.data();
      task.scratch = scratch.data();
      if (options.entropy) {
        task.p_log_p =
            p_log_p.data() + (part * plan.query_heads + kv_head * plan.group) * plan.rows;
        task.p_log_p_stride = plan.rows;
      }
      functions.columns(task);
      for (const Target& target : targets) {
        write_columns(plan, target, columns.data(), kv_head, first_key, task.keys);
      }
    }
  });
}

}  // namespace

AttentionStats attention_stats_cpu(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& lse, const AttentionStatsOptions& options,
                                   const tile::Functions& functions) {
  const Plan plan = make_plan(queries, keys, options);
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
  const int rows = static_cast<int>(plan.rows);
  std::vector<Target> targets;
  for (const int window : options.windows) {
    targets.push_back(make_target(plan, std::max(0, rows - window)));
  }
  if (options.last_query) {
    targets.push_back(make_target(plan, std::max(0, rows - 1)));
    stats.last_query = targets.back().sum;
  }
  if (options.columns) {
    targets.push_back(make_target(plan, 0));
    stats.sum = targets.back().sum;
    stats.sum_squares = targets.back().squares;
    stats.max = targets.back().largest;
  }
  for (std::size_t i = 0; i < options.windows.size(); ++i) {
    stats.windows.push_back({std::min(options.windows[i], rows), targets[i].sum, targets[i].squares,
                             targets[i].largest});
  }
  std::vector<float> p_log_p;
  if (options.entropy) {
    p_log_p.resize(static_cast<std::size_t>(plan.partitions * plan.query_heads * plan.rows));
  }
  if (!targets.empty() || options.entropy) {
    const float factor = logit_rule(options.scale, options.softcap).key_factor;
    const PackedKeys packed = pack_keys(keys, factor, functions);
    column_pass(plan, queries, packed, lse_in_log2(stats.lse, plan), options, targets, p_log_p,
                functions);
  }
  if (options.entropy) {
    stats.entropy = join_entropy(plan, p_log_p);
  }
  if (options.columns) {
    stats.self_check = self_check(plan, stats.sum, rows_that_see(plan.rows, plan.tokens, options));
  }
  return stats;
}

}  // namespace kvscope::detail
