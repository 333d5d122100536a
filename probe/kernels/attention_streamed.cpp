#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

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

/// Rows of one pass, cut into tasks by KV head and part of the keys.
class StreamedPass {
 public:
  StreamedPass(const ForwardInputs& in, const AttentionResult& result, const StreamedWatch& watch,
               const tile::Functions& functions)
      : in_(in),
        result_(result),
        watch_(watch),
        functions_(functions),
        parts_((in.tokens + tile::row_keys - 1) / tile::row_keys),
        state_(tile::row_state + in.value_dim),
        partial_(static_cast<std::size_t>(in.rows * in.kv_heads * parts_ * in.group * state_)),
        left_(static_cast<std::size_t>(in.kv_heads)) {
    for (std::atomic<std::int64_t>& left : left_) {
      left = parts_;
    }
    if (watch.kept != nullptr) {
      make_room(*watch.kept);
    }
  }

  /// Parts first, then heads: they are begun in this order, so that a head's parts are done, or
  /// other threads are at the last of them.
  void run() {
    const std::int64_t part_tasks = in_.kv_heads * parts_;
    run_tasks(part_tasks + in_.query_heads, [this, part_tasks](std::int64_t index) {
      if (index >= part_tasks) {
        join(index - part_tasks);
        return;
      }
      const auto kv_head = static_cast<std::size_t>(index / parts_);
      const Done done{left_[kv_head]};
      run_part(index / parts_, index % parts_);
    });
  }

 private:
  /// A part is over, also if it threw.
  struct Done {
    std::atomic<std::int64_t>& left;
    ~Done() { --left; }
  };
  std::int64_t block() const { return in_.group * tile::row_keys; }  ///< weights of one task
  std::int64_t place(std::int64_t row, std::int64_t kv_head, std::int64_t part) const {
    return (row * in_.kv_heads + kv_head) * parts_ + part;
  }

  void make_room(StreamedWeights& kept) const {
    const auto grow = [](auto& buffer, std::int64_t size) {
      buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(size)));
    };
    kept.parts = parts_;
    grow(kept.weights, in_.rows * in_.kv_heads * parts_ * block());
    grow(kept.factors, in_.rows * in_.query_heads * parts_);
    grow(kept.maxima, watch_.maxima ? std::ssize(kept.weights) / ScaledValues::group : 0);
  }

  void run_part(std::int64_t kv_head, std::int64_t part) {
    StreamedWeights* kept = watch_.kept;
    std::vector<float> scratch(static_cast<std::size_t>(kept == nullptr ? block() : 0));
    for (std::int64_t row = 0; row < in_.rows; ++row) {
      tile::RowTask task = row_task(in_, row, kv_head, part);
      if (task.first_key >= task.end_key) {
        continue;
      }
      task.partial = partial_.data() + place(row, kv_head, part) * in_.group * state_;
      task.weights = kept == nullptr ? scratch.data()
                                     : kept->weights.data() + place(row, kv_head, part) * block();
      if (watch_.maxima) {
        task.maxima =
            kept->maxima.data() + place(row, kv_head, part) * in_.group * tile::row_maxima;
      }
      functions_.rows(task);
    }
  }

  void join(std::int64_t head) {
    while (left_[static_cast<std::size_t>(head / in_.group)] > 0) {
      std::this_thread::yield();
    }
    for (std::int64_t row = 0; row < in_.rows; ++row) {
      join_head(row, head);
    }
    if (watch_.joined) {
      watch_.joined(head);
    }
  }

  void join_head(std::int64_t row, std::int64_t head) {
    const std::int64_t cell = place(row, head / in_.group, 0) * in_.group + head % in_.group;
    const RowParts partials{partial_.data() + cell * state_, parts_, in_.group * state_};
    JoinedRow to;
    to.output = in_.values.defined()
                    ? result_.output.mutable_data_ptr<float>() + head * result_.output.stride(0) +
                          row * result_.output.stride(1)
                    : nullptr;
    to.lse = result_.lse.mutable_data_ptr<float>() + head * in_.rows + row;
    to.entropy = watch_.entropy == nullptr ? nullptr : watch_.entropy + head * in_.rows + row;
    to.factors = watch_.kept == nullptr
                     ? nullptr
                     : watch_.kept->factors.data() + (row * in_.query_heads + head) * parts_;
    join_row(partials, in_.value_dim, to);
  }

  const ForwardInputs& in_;
  const AttentionResult& result_;
  const StreamedWatch& watch_;
  const tile::Functions& functions_;
  std::int64_t parts_;
  std::int64_t state_;  ///< floats of one head of a task
  std::vector<float> partial_;
  std::vector<std::atomic<std::int64_t>> left_;  ///< [kv_heads] parts that are not done
};

}  // namespace

void streamed_forward(const ForwardInputs& in, const AttentionResult& result,
                      const StreamedWatch& watch, const tile::Functions& functions) {
  StreamedPass(in, result, watch, functions).run();
}

}  // namespace kvscope::detail
