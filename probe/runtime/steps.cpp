#include "steps.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/silu.h>

#include <vector>

#include "row_loops.h"

namespace kvscope::detail {
namespace {

/// Raw pointer of a tensor whose elements are float (T = float) or bfloat16 (T = Bf16).
template <typename T>
T* data_of(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

/// Calls `body(T{})` with the CPU element type of `tensor`.
template <typename Body>
void with_type(const at::Tensor& tensor, const Body& body) {
  if (tensor.scalar_type() == at::kFloat) {
    body(float{});
  } else {
    body(Bf16{});
  }
}

/// Rows worth handing to a thread: enough elements to pay for waking it.
std::int64_t grain(std::int64_t columns) {
  return std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, columns));
}

/// Copies value rows of one head, `stride` elements apart, to contiguous rows.
template <typename T>
void copy_rows(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, T* to) {
  for (std::int64_t row = 0; row < rows; ++row, from += stride, to += columns) {
    std::copy(from, from + columns, to);
  }
}

template <typename T>
void split_on_cpu(const at::Tensor& qkv, const Rotation& rotation, const ModelShape& shape,
                  const LayerState& state, at::Tensor& queries) {
  const std::int64_t rows = qkv.size(0);
  const std::int64_t stride = qkv.size(1);
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t dims = rotation.dims();
  const float* cosine = rotation.cosine.const_data_ptr<float>();
  const float* sine = rotation.sine.const_data_ptr<float>();
  std::vector<T*> keys;
  std::vector<T*> values;
  for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
    keys.push_back(static_cast<T*>(state.next_key_data(kv_head)));
    values.push_back(static_cast<T*>(state.next_value_data(kv_head)));
  }
  const RowLoops<T>& loops = row_loops<T>();
  const T* x = data_of<T>(qkv);
  float* q = data_of<float>(queries);
  at::parallel_for(0, rows, grain(stride), [&](std::int64_t first, std::int64_t last) {
    const std::int64_t count = last - first;
    const T* row = x + first * stride;
    const float* c = cosine + first * (dims / 2);
    const float* s = sine + first * (dims / 2);
    for (int head = 0; head < shape.query_heads; ++head, row += head_dim) {
      loops.rotate_to_float(row, stride, c, s, count, dims, head_dim,
                            q + (head * rows + first) * head_dim);
    }
    for (T* key : keys) {
      loops.rotate(row, stride, c, s, count, dims, head_dim, key + first * head_dim);
      row += head_dim;
    }
    for (T* value : values) {
      copy_rows(row, stride, count, head_dim, value + first * head_dim);
      row += head_dim;
    }
  });
}

void split_plain(const at::Tensor& qkv, const Rotation& rotation, const ModelShape& shape,
                 const LayerState& state, at::Tensor& queries) {
  const std::int64_t rows = qkv.size(0);
  const at::Tensor heads = qkv.view({rows, -1, shape.head_dim}).transpose(0, 1);
  const at::Tensor turned =
      rotate(heads.narrow(0, 0, shape.query_heads + shape.kv_heads).to(at::kFloat), rotation);
  queries.copy_(turned.narrow(0, 0, shape.query_heads));
  for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
    const int key = shape.query_heads + kv_head;
    state.next_keys(kv_head, static_cast<int>(rows)).copy_(turned.select(0, key));
    state.next_values(kv_head, static_cast<int>(rows)).copy_(heads.select(0, key + shape.kv_heads));
  }
}

}  // namespace

at::Tensor activated(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return at::silu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::gelu:
      return at::gelu(x);
    case Activation::relu:
      return at::relu(x);
  }
  return x;
}

at::Tensor embed(const WeightMatrix& embedding, std::span<const std::int32_t> ids, double scale) {
  const at::Tensor stored = embedding.gather(ids);
  at::Tensor rows = stored.to(at::kFloat);
  if (scale != 1.0) {
    rows.mul_(at::scalar_tensor(scale, stored.options().device(at::kCPU)).to(at::kFloat));
  }
  return rows;
}

void rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, at::Tensor& out,
              bool plain) {
  if (plain || !x.device().is_cpu()) {
    const at::Tensor factor = at::rsqrt(at::mean(at::mul(x, x), {-1}, true).add(epsilon));
    out.copy_(x.mul(factor).mul(weight));
    return;
  }
  const std::int64_t columns = x.size(1);
  with_type(out, [&]<typename T>(T) {
    const float* from = x.const_data_ptr<float>();
    const float* scale = weight.const_data_ptr<float>();
    T* to = data_of<T>(out);
    at::parallel_for(0, x.size(0), grain(columns), [&](std::int64_t first, std::int64_t last) {
      row_loops<T>().rms_norm(from + first * columns, scale, static_cast<float>(epsilon),
                              last - first, columns, to + first * columns);
    });
  });
}

void normalise(const at::Tensor& x, const NormWeights& norm, const ModelConfig& config,
               at::Tensor& out) {
  if (config.norm == NormKind::rms) {
    rms_norm(x, norm.weight, config.norm_epsilon, out);
  } else {
    out.copy_(at::layer_norm(x, {x.size(1)}, norm.weight, norm.bias, config.norm_epsilon));
  }
}

void norm_heads(at::Tensor& x, std::int64_t first, int heads, const at::Tensor& weight,
                double epsilon, bool plain) {
  const std::int64_t head_dim = weight.size(0);
  if (plain || !x.device().is_cpu()) {
    at::Tensor part = x.narrow(1, first, heads * head_dim).view({x.size(0), heads, head_dim});
    const at::Tensor values = part.to(at::kFloat);
    const at::Tensor factor = at::rsqrt(at::mean(at::mul(values, values), {-1}, true).add(epsilon));
    part.copy_(values.mul(factor).mul(weight));
    return;
  }
  const std::int64_t stride = x.size(1);
  const float* scale = weight.const_data_ptr<float>();
  with_type(x, [&]<typename T>(T) {
    T* data = data_of<T>(x) + first;
    at::parallel_for(
        0, x.size(0), grain(heads * head_dim), [&](std::int64_t from, std::int64_t to) {
          for (int head = 0; head < heads; ++head) {
            row_loops<T>().norm_in_place(data + from * stride + head * head_dim, stride, scale,
                                         static_cast<float>(epsilon), to - from, head_dim);
          }
        });
  });
}

void activate(const at::Tensor& gate_up, Activation activation, at::Tensor& out, bool plain) {
  const std::int64_t columns = out.size(1);
  const bool gated = gate_up.size(1) == 2 * columns;
  const bool fused = activation == Activation::silu || activation == Activation::gelu_tanh;
  if (plain || !gated || !fused || !gate_up.device().is_cpu()) {
    const at::Tensor active = activated(gate_up.narrow(1, 0, columns), activation);
    out.copy_(gated ? active.mul(gate_up.narrow(1, columns, columns)) : active);
    return;
  }
  with_type(out, [&]<typename T>(T) {
    const RowLoops<T>& loops = row_loops<T>();
    const auto loop = activation == Activation::silu ? loops.swiglu : loops.geglu;
    const T* from = data_of<T>(gate_up);
    T* to = data_of<T>(out);
    at::parallel_for(0, out.size(0), grain(columns), [&](std::int64_t first, std::int64_t last) {
      loop(from + first * 2 * columns, last - first, columns, to + first * columns);
    });
  });
}

at::Tensor multiply(const at::Tensor& x, const WeightMatrix& weight, const at::Tensor& bias) {
  if (x.size(0) > 1 || !x.device().is_cpu()) {
    return weight.product(x, bias);
  }
  at::Tensor row = at::empty({1, weight.rows()}, at::kFloat);
  weight.times(x, row);
  return (bias.defined() ? row.add_(bias) : row).to(x.scalar_type());
}

void add_product(const at::Tensor& x, const WeightMatrix& weight, at::Tensor& hidden) {
  if (x.size(0) == 1 && x.device().is_cpu()) {  // the sums are not rounded to the model's type
    at::Tensor row = at::empty({1, weight.rows()}, at::kFloat);
    weight.times(x, row);
    row_loops<float>().add(row.const_data_ptr<float>(), row.numel(),
                           hidden.mutable_data_ptr<float>());
    return;
  }
  const at::Tensor product = weight.product(x);
  if (!hidden.device().is_cpu()) {
    hidden.add_(product);
    return;
  }
  with_type(product, [&]<typename T>(T) {
    const T* from = data_of<T>(product);
    float* to = hidden.mutable_data_ptr<float>();
    at::parallel_for(0, hidden.numel(), 16384, [&](std::int64_t first, std::int64_t last) {
      row_loops<T>().add(from + first, last - first, to + first);
    });
  });
}

void split_heads(const at::Tensor& qkv, const Rotation& rotation, const ModelShape& shape,
                 const LayerState& state, at::Tensor& queries, bool plain) {
  if (plain || !qkv.device().is_cpu()) {
    split_plain(qkv, rotation, shape, state, queries);
    return;
  }
  with_type(qkv, [&]<typename T>(T) { split_on_cpu<T>(qkv, rotation, shape, state, queries); });
}

}  // namespace kvscope::detail
