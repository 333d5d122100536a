#include "packed_keys.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

namespace kvscope::detail {

void run_tasks(std::int64_t count, const std::function<void(std::int64_t)>& task) {
  const std::int64_t workers = std::min<std::int64_t>(count, at::get_num_threads());
  if (workers <= 1 || at::in_parallel_region()) {
    for (std::int64_t index = 0; index < count; ++index) {
      task(index);
    }
    return;
  }
  std::atomic<std::int64_t> next{0};
  at::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t worker = begin; worker < end; ++worker) {
      for (std::int64_t index = next++; index < count; index = next++) {
        task(index);
      }
    }
  });
}

tile::LogitRule logit_rule(double scale, double softcap) {
  tile::LogitRule rule;
  rule.key_factor = static_cast<float>(softcap > 0 ? scale / softcap : scale * log2_e);
  rule.cap = static_cast<float>(softcap > 0 ? softcap * log2_e : 0.0);
  return rule;
}

PackedKeys pack_keys(const at::Tensor& keys, float factor, const tile::Functions& functions) {
  const std::int64_t kv_heads = keys.size(0);
  const std::int64_t tokens = keys.size(1);
  const std::int64_t head_dim = keys.size(2);
  PackedKeys packed;
  packed.tile_keys = functions.tile_keys;
  const std::int64_t padded = (tokens + packed.tile_keys - 1) / packed.tile_keys * packed.tile_keys;
  packed.head_stride = padded * head_dim;
  packed.data.resize(static_cast<std::size_t>(kv_heads * packed.head_stride));
  const std::int64_t stripes = (tokens + tile::stripe_keys - 1) / tile::stripe_keys;
  const float* source = keys.const_data_ptr<float>();
  run_tasks(kv_heads * stripes, [&](std::int64_t index) {
    const std::int64_t kv_head = index / stripes;
    const std::int64_t first = index % stripes * tile::stripe_keys;
    tile::PackTask task;
    task.keys = source + kv_head * keys.stride(0) + first * keys.stride(1);
    task.key_stride = keys.stride(1);
    task.count = static_cast<int>(std::min<std::int64_t>(tile::stripe_keys, tokens - first));
    task.head_dim = static_cast<int>(head_dim);
    task.factor = factor;
    task.packed = packed.data.data() + kv_head * packed.head_stride + first * head_dim;
    functions.pack(task);
  });
  return packed;
}

}  // namespace kvscope::detail
