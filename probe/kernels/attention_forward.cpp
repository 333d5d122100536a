#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention_checks.h"
#include "attention_impl.h"
#include "kvscope/core/error.h"
#include "packed_keys.h"

namespace kvscope {
namespace detail {
namespace {

/// Rows up to which K and V are streamed as they lie instead of packed.
constexpr std::int64_t few_rows = 4;
/// Keys of one task of the streaming form; a multiple of every vector width.
constexpr std::int64_t row_task_keys = 256;

struct Sizes {
  std::int64_t query_heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t rows = 0;
  std::int64_t tokens = 0;
  std::int64_t head_dim = 0;
  std::int64_t value_dim = 0;
  std::int64_t group = 0;
};

/// Keys [first, end) that each query of one KV head sees.
struct Visible {
  std::vector<int> first;
  std::vector<int> end;
};

/// Slots rather than tokens: `length` live ones, of which the newest `causal_tail` are causal.
bool counts_slots(const at::Tensor& multiplicity, const at::Tensor& length) {
  return multiplicity.defined() || length.defined();
}

Visible visible_keys(const Sizes& sizes, const at::Tensor& length, bool slots, std::int64_t kv_head,
                     const AttentionOptions& options) {
  Visible visible;
  const std::int64_t live =
      length.defined() ? length.const_data_ptr<std::int32_t>()[kv_head] : sizes.tokens;
  for (std::int64_t row = 0; row < sizes.rows; ++row) {
    std::int64_t end = live;
    std::int64_t first = 0;
    if (slots && options.causal_tail > 0) {
      end = std::clamp(live - sizes.rows + row + 1,
                       std::max<std::int64_t>(0, live - options.causal_tail), live);
    } else if (!slots) {
      const std::int64_t position = options.first_query + row;
      end = std::min(sizes.tokens, position + 1);
      first = options.window > 0 ? std::max<std::int64_t>(0, position - options.window + 1) : 0;
    }
    visible.first.push_back(static_cast<int>(std::min(first, end)));
    visible.end.push_back(static_cast<int>(end));
  }
  return visible;
}

/// log2 of the multiplicity, padded to whole tiles: [kv_heads, padded]; empty without one.
std::vector<float> log2_multiplicity(const at::Tensor& multiplicity, const Sizes& sizes,
                                     std::int64_t padded) {
  std::vector<float> bias;
  if (!multiplicity.defined()) {
    return bias;
  }
  const at::Tensor dense = multiplicity.contiguous();
  const float* from = dense.const_data_ptr<float>();
  bias.resize(static_cast<std::size_t>(sizes.kv_heads * padded), 0.0f);
  for (std::int64_t head = 0; head < sizes.kv_heads; ++head) {
    for (std::int64_t slot = 0; slot < sizes.tokens; ++slot) {
      bias[static_cast<std::size_t>(head * padded + slot)] =
          std::log2(from[head * sizes.tokens + slot]);
    }
  }
  return bias;
}

struct Inputs {
  Sizes sizes;
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
  tile::LogitRule rule;
  std::vector<float> bias;
  std::int64_t bias_stride = 0;
  std::vector<Visible> visible;  ///< [kv_heads]
};

void packed_forward(const Inputs& in, const AttentionResult& result,
                    const tile::Functions& functions) {
  const Sizes& sizes = in.sizes;
  const PackedKeys packed = pack_keys(in.keys, in.rule.key_factor, functions);
  const std::int64_t blocks = (sizes.rows + tile::forward_rows - 1) / tile::forward_rows;
  run_tasks(sizes.kv_heads * blocks, [&](std::int64_t index) {
    // Late queries see most keys: their tasks come first.
    const std::int64_t first_row = (blocks - 1 - index / sizes.kv_heads) * tile::forward_rows;
    const std::int64_t kv_head = index % sizes.kv_heads;
    const std::int64_t head = kv_head * sizes.group;
    std::vector<float> scratch(static_cast<std::size_t>(
        tile::forward_scratch(static_cast<int>(sizes.group), static_cast<int>(sizes.value_dim))));
    tile::ForwardTask task;
    task.queries = in.queries.const_data_ptr<float>() + head * in.queries.stride(0) +
                   first_row * in.queries.stride(1);
    task.head_stride = in.queries.stride(0);
    task.row_stride = in.queries.stride(1);
    task.packed = packed.at(kv_head, 0, sizes.head_dim);
    task.bias = in.bias.empty() ? nullptr : in.bias.data() + kv_head * in.bias_stride;
    task.rule = in.rule;
    task.head_dim = static_cast<int>(sizes.head_dim);
    task.group = static_cast<int>(sizes.group);
    task.rows =
        static_cast<int>(std::min<std::int64_t>(tile::forward_rows, sizes.rows - first_row));
    task.first_visible = in.visible[static_cast<std::size_t>(kv_head)].first.data() + first_row;
    task.end_visible = in.visible[static_cast<std::size_t>(kv_head)].end.data() + first_row;
    task.lse = result.lse.mutable_data_ptr<float>() + head * sizes.rows + first_row;
    task.lse_head_stride = sizes.rows;
    task.scratch = scratch.data();
    if (in.values.defined()) {
      task.values = in.values.const_data_ptr<float>() + kv_head * in.values.stride(0);
      task.value_stride = in.values.stride(1);
      task.value_dim = static_cast<int>(sizes.value_dim);
      task.output = result.output.mutable_data_ptr<float>() + head * result.output.stride(0) +
                    first_row * result.output.stride(1);
      task.output_head_stride = result.output.stride(0);
      task.output_row_stride = result.output.stride(1);
    }
    functions.forward(task);
  });
}

/// Joins the partial results of one query's key ranges, in order.
void join_row(const float* partial, std::int64_t parts, std::int64_t part_stride,
              std::int64_t value_dim, float* output, float* lse) {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t part = 0; part < parts; ++part) {
    if (partial[part * part_stride + 1] != 0) {
      largest = std::max(largest, partial[part * part_stride]);
    }
  }
  std::vector<float> joined(static_cast<std::size_t>(value_dim), 0.0f);
  double sum = 0;
  for (std::int64_t part = 0; part < parts; ++part) {
    const float* state = partial + part * part_stride;
    if (state[1] == 0) {
      continue;
    }
    const float weight = std::exp2(state[0] - largest);
    sum += weight * state[1];
    for (std::int64_t c = 0; c < value_dim; ++c) {
      joined[static_cast<std::size_t>(c)] += weight * state[2 + c];
    }
  }
  *lse = sum == 0 ? -std::numeric_limits<float>::infinity()
                  : static_cast<float>((largest + std::log2(sum)) * ln_2);
  for (std::int64_t c = 0; c < value_dim; ++c) {
    output[c] = sum == 0 ? 0.0f : static_cast<float>(joined[static_cast<std::size_t>(c)] / sum);
  }
}

/// First element of one head, whatever the element type.
const void* head_of(const at::Tensor& tensor, std::int64_t head) {
  return static_cast<const char*>(tensor.const_data_ptr()) +
         head * tensor.stride(0) * static_cast<std::int64_t>(tensor.element_size());
}

void streamed_forward(const Inputs& in, const AttentionResult& result,
                      const tile::Functions& functions) {
  const Sizes& sizes = in.sizes;
  const std::int64_t parts = (sizes.tokens + row_task_keys - 1) / row_task_keys;
  const std::int64_t state = 2 + sizes.value_dim;
  std::vector<float> partial(
      static_cast<std::size_t>(sizes.rows * sizes.kv_heads * parts * sizes.group * state));
  const auto place = [&](std::int64_t row, std::int64_t kv_head, std::int64_t part) {
    return partial.data() + ((row * sizes.kv_heads + kv_head) * parts + part) * sizes.group * state;
  };
  run_tasks(sizes.kv_heads * parts, [&](std::int64_t index) {
    const std::int64_t kv_head = index / parts;
    const std::int64_t part = index % parts;
    std::vector<float> scratch(static_cast<std::size_t>(sizes.group * (row_task_keys + 16)));
    for (std::int64_t row = 0; row < sizes.rows; ++row) {
      const Visible& visible = in.visible[static_cast<std::size_t>(kv_head)];
      const std::int64_t first = visible.first[static_cast<std::size_t>(row)];
      const std::int64_t end = visible.end[static_cast<std::size_t>(row)];
      tile::RowTask task;
      task.first_key = static_cast<int>(std::max(first, part * row_task_keys));
      task.end_key = static_cast<int>(std::min(end, (part + 1) * row_task_keys));
      if (task.first_key >= task.end_key) {
        continue;
      }
      task.queries = in.queries.const_data_ptr<float>() +
                     kv_head * sizes.group * in.queries.stride(0) + row * in.queries.stride(1);
      task.head_stride = in.queries.stride(0);
      task.bfloat16 = in.keys.scalar_type() == at::kBFloat16;
      task.keys = head_of(in.keys, kv_head);
      task.key_stride = in.keys.stride(1);
      task.bias = in.bias.empty() ? nullptr : in.bias.data() + kv_head * in.bias_stride;
      task.rule = in.rule;
      task.head_dim = static_cast<int>(sizes.head_dim);
      task.group = static_cast<int>(sizes.group);
      if (in.values.defined()) {
        task.values = head_of(in.values, kv_head);
        task.value_stride = in.values.stride(1);
        task.value_dim = static_cast<int>(sizes.value_dim);
      }
      task.partial = place(row, kv_head, part);
      task.scratch = scratch.data();
      functions.rows(task);
    }
  });
  for (std::int64_t row = 0; row < sizes.rows; ++row) {
    for (std::int64_t head = 0; head < sizes.query_heads; ++head) {
      float* output = in.values.defined()
                          ? result.output.mutable_data_ptr<float>() +
                                head * result.output.stride(0) + row * result.output.stride(1)
                          : nullptr;
      join_row(place(row, head / sizes.group, 0) + head % sizes.group * state, parts,
               sizes.group * state, sizes.value_dim, output,
               result.lse.mutable_data_ptr<float>() + head * sizes.rows + row);
    }
  }
}

}  // namespace

AttentionResult attention_with_lse_cpu(const at::Tensor& queries, const at::Tensor& keys,
                                       const at::Tensor& values, const at::Tensor& multiplicity,
                                       const at::Tensor& length, const AttentionOptions& options,
                                       const tile::Functions& functions) {
  Inputs in;
  Sizes& sizes = in.sizes;
  sizes.query_heads = queries.size(0);
  sizes.rows = queries.size(1);
  sizes.head_dim = queries.size(2);
  sizes.kv_heads = keys.size(0);
  sizes.tokens = keys.size(1);
  sizes.value_dim = values.defined() ? values.size(2) : 0;
  sizes.group = sizes.query_heads / sizes.kv_heads;
  in.queries = queries;
  in.keys = keys;
  in.values = values;
  in.rule = logit_rule(options.scale, options.softcap);
  in.bias_stride = (sizes.tokens + tile::stripe_keys - 1) / tile::stripe_keys * tile::stripe_keys;
  in.bias = log2_multiplicity(multiplicity, sizes, in.bias_stride);
  for (std::int64_t head = 0; head < sizes.kv_heads; ++head) {
    in.visible.push_back(
        visible_keys(sizes, length, counts_slots(multiplicity, length), head, options));
  }
  AttentionResult result;
  if (values.defined()) {
    // Stored token by token, so that joining the heads for the output projection copies nothing.
    result.output =
        at::empty({sizes.rows, sizes.query_heads, sizes.value_dim}, at::kFloat).transpose(0, 1);
  }
  result.lse = at::empty({sizes.query_heads, sizes.rows}, at::kFloat);
  if (sizes.rows > few_rows) {
    packed_forward(in, result, functions);
  } else if (sizes.rows > 0) {
    streamed_forward(in, result, functions);
  }
  return result;
}

}  // namespace detail

AttentionResult attention_with_lse(const at::Tensor& queries, const at::Tensor& keys,
                                   const at::Tensor& values, const at::Tensor& multiplicity,
                                   const at::Tensor& length, const AttentionOptions& options) {
  constexpr const char* where = "attention_with_lse";
  detail::check_queries_and_keys(queries, keys, where, true);
  KVSCOPE_CHECK(values.defined() && values.dim() == 3 && values.size(0) == keys.size(0) &&
                    values.size(1) == keys.size(1) && values.device() == keys.device() &&
                    values.scalar_type() == keys.scalar_type(),
                ErrorCode::usage, "values must be [kv_heads, tokens, head_dim] like the keys",
                where);
  detail::check_plane(multiplicity, keys.size(0), keys.size(1), at::kFloat, "multiplicity", where);
  detail::check_plane(length, -1, keys.size(0), at::kInt, "length", where);
  KVSCOPE_CHECK(options.softcap >= 0 && options.window >= 0 && options.first_query >= 0 &&
                    options.causal_tail >= 0 && options.causal_tail <= keys.size(1),
                ErrorCode::usage, "an attention option is out of range", where);
  KVSCOPE_CHECK(options.window == 0 || !detail::counts_slots(multiplicity, length),
                ErrorCode::unsupported, "a sliding window over a compressed cache", where,
                "compress only the layers without a sliding window");
  if (!queries.is_cpu()) {
    return detail::attention_with_lse_plain(queries, keys, values, multiplicity, length, options);
  }
  const at::Tensor live = length.defined() ? length.contiguous() : length;
  for (std::int64_t head = 0; live.defined() && head < keys.size(0); ++head) {
    const std::int64_t count = live.const_data_ptr<std::int32_t>()[head];
    KVSCOPE_CHECK(
        count >= 0 && count <= keys.size(1), ErrorCode::usage,
        fmt::format("length {} of KV head {} is not within {} slots", count, head, keys.size(1)),
        where);
  }
  // A few rows read a bfloat16 cache as it lies; converting it would cost more than the attention.
  const bool as_stored = keys.scalar_type() == at::kBFloat16 && queries.size(1) <= detail::few_rows;
  const auto cached = [&](const at::Tensor& tensor) {
    return detail::with_dense_rows(as_stored ? tensor : tensor.to(at::kFloat));
  };
  AttentionResult result = detail::attention_with_lse_cpu(
      detail::with_dense_rows(queries.to(at::kFloat)), cached(keys), cached(values), multiplicity,
      live, options, tile::functions());
  result.output = result.output.to(queries.scalar_type());
  return result;
}

}  // namespace kvscope
