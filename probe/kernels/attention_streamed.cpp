#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "attention_inputs.h"

namespace kvscope::detail {
namespace {

/// The parts of one query's keys, as row tasks left them: [parts] states `stride` floats apart.
struct RowParts {
  const float* state = nullptr;
  std::int64_t parts = 0;
  std::int64_t stride = 0;

  float largest(std::int64_t part) const { return state[part * stride]; }
  float sum(std::int64_t part) const { return state[part * stride + 1]; }
  float weighted(std::int64_t part) const { return state[part * stride + 2]; }
  const float* values(std::int64_t part) const { return state + part * stride + tile::row_state; }
};

struct JoinedRow {
  float* output = nullptr;   ///< [value_dim] or null
  float* lse = nullptr;      ///< natural
  float* entropy = nullptr;  ///< nats, or null
  float* factors = nullptr;  ///< [parts] or null
};

/// Joins the partial results of one query's key ranges, in order.
void join_row(const RowParts& row, std::int64_t value_dim, const JoinedRow& to) {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t part = 0; part < row.parts; ++part) {
    if (row.sum(part) != 0) {
      largest = std::max(largest, row.largest(part));
    }
  }
  std::vector<float> joined(static_cast<std::size_t>(value_dim), 0.0f);
  double sum = 0;
  double weighted = 0;
  for (std::int64_t part = 0; part < row.parts; ++part) {
    if (row.sum(part) == 0) {
      continue;
    }
    const float below = row.largest(part) - largest;
    const float weight = std::exp2(below);
    sum += weight * row.sum(part);
    weighted += weight * (row.weighted(part) + row.sum(part) * below);
    const float* values = row.values(part);
    for (std::int64_t c = 0; c < value_dim; ++c) {
      joined[static_cast<std::size_t>(c)] += weight * values[c];
    }
  }
  *to.lse = sum == 0 ? -std::numeric_limits<float>::infinity()
                     : static_cast<float>((largest + std::log2(sum)) * ln_2);
  for (std::int64_t c = 0; c < value_dim; ++c) {
    to.output[c] = sum == 0 ? 0.0f : static_cast<float>(joined[static_cast<std::size_t>(c)] / sum);
  }
  if (to.entropy != nullptr) {
    *to.entropy = sum == 0
                      ? 0.0f
                      : static_cast<float>(std::max(0.0, (std::log2(sum) - weighted / sum) * ln_2));
  }
  for (std::int64_t part = 0; to.factors != nullptr && part < row.parts; ++part) {
    to.factors[part] = row.sum(part) == 0
                           ? 0.0f
                           : static_cast<float>(std::exp2(row.largest(part) - largest) / sum);
  }
}

/// First element of one head, whatever the element type.
const void* head_of(const at::Tensor& tensor, std::int64_t head) {
  return static_cast<const char*>(tensor.const_data_ptr()) +
         head * tensor.stride(0) * static_cast<std::int64_t>(tensor.element_size());
}

/// Row `row` of one KV head against the keys of one part; empty where it sees none of them.
tile::RowTask row_task(const ForwardInputs& in, std::int64_t row, std::int64_t kv_head,
                       std::int64_t part) {
  const VisibleKeys& visible = in.visible[static_cast<std::size_t>(kv_head)];
  const std::int64_t first = visible.first[static_cast<std::size_t>(row)];
  const std::int64_t end = visible.end[static_cast<std::size_t>(row)];
  tile::RowTask task;
  task.first_key = static_cast<int>(std::max(first, part * tile::row_keys));
  task.end_key = static_cast<int>(std::min(end, (part + 1) * tile::row_keys));
  task.queries = in.queries.const_data_ptr<float>() + kv_head * in.group * in.queries.stride(0) +
                 row * in.queries.stride(1);
  task.head_stride = in.queries.stride(0);
  task.bfloat16 = in.keys.scalar_type() == at::kBFloat16;
  task.keys = head_of(in.keys, kv_head);
  task.key_stride = in.keys.stride(1);
  task.bias = in.bias.empty() ? nullptr : in.bias.data() + kv_head * in.bias_stride;
  task.rule = in.rule;
  task.head_dim = static_cast<int>(in.head_dim);
  task.group = static_cast<int>(in.group);
  if (in.values.defined()) {
    task.values = head_of(in.values, kv_head);
    task.value_stride = in.values.stride(1);
    task.value_dim = static_cast<int>(in.value_dim);
  }
  return task;
}

}  // namespace

void streamed_forward(const ForwardInputs& in, const AttentionResult& result, StreamedWeights* kept,
                      bool maxima, float* entropy, const tile::Functions& functions) {
  const std::int64_t parts = (in.tokens + tile::row_keys - 1) / tile::row_keys;
  const std::int64_t state = tile::row_state + in.value_dim;
  std::vector<float> partial(
      static_cast<std::size_t>(in.rows * in.kv_heads * parts * in.group * state));
  const std::int64_t block = in.group * tile::row_keys;  // weights of one task
  if (kept != nullptr) {
    kept->parts = parts;
    const auto grow = [](std::vector<float>& buffer, std::int64_t size) {
      buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(size)));
    };
    kept->has_maxima = maxima;
    const std::int64_t weights = in.rows * in.kv_heads * parts * block;
    grow(kept->weights, weights);
    grow(kept->factors, in.rows * in.query_heads * parts);
    grow(kept->maxima, maxima ? weights / tile::block_keys : 0);
  }
  const auto place = [&](std::int64_t row, std::int64_t kv_head, std::int64_t part) {
    return (row * in.kv_heads + kv_head) * parts + part;
  };
  run_tasks(in.kv_heads * parts, [&](std::int64_t index) {
    const std::int64_t kv_head = index / parts;
    const std::int64_t part = index % parts;
    std::vector<float> scratch(static_cast<std::size_t>(kept == nullptr ? block : 0));
    for (std::int64_t row = 0; row < in.rows; ++row) {
      tile::RowTask task = row_task(in, row, kv_head, part);
      if (task.first_key >= task.end_key) {
        continue;
      }
      task.partial = partial.data() + place(row, kv_head, part) * in.group * state;
      task.weights = kept == nullptr ? scratch.data()
                                     : kept->weights.data() + place(row, kv_head, part) * block;
      if (kept != nullptr && maxima) {
        task.maxima = kept->maxima.data() + place(row, kv_head, part) * block / tile::block_keys;
      }
      functions.rows(task);
    }
  });
  for (std::int64_t row = 0; row < in.rows; ++row) {
    for (std::int64_t head = 0; head < in.query_heads; ++head) {
      const RowParts partials{
          partial.data() + (place(row, head / in.group, 0) * in.group + head % in.group) * state,
          parts, in.group * state};
      JoinedRow to;
      to.output = in.values.defined()
                      ? result.output.mutable_data_ptr<float>() + head * result.output.stride(0) +
                            row * result.output.stride(1)
                      : nullptr;
      to.lse = result.lse.mutable_data_ptr<float>() + head * in.rows + row;
      to.entropy = entropy == nullptr ? nullptr : entropy + head * in.rows + row;
      to.factors =
          kept == nullptr ? nullptr : kept->factors.data() + (row * in.query_heads + head) * parts;
      join_row(partials, in.value_dim, to);
    }
  }
}

}  // namespace kvscope::detail
