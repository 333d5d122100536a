#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "tile/tasks.h"

namespace kvscope::detail {

inline constexpr double log2_e = 1.4426950408889634;
inline constexpr double ln_2 = 0.6931471805599453;

/// Runs tasks 0 .. count - 1 on torch's threads, each on the first thread that is free. A task
/// writes only what belongs to it, so the answer does not depend on who ran it.
void run_tasks(std::int64_t count, const std::function<void(std::int64_t task)>& task);

/// What keys are multiplied by and what a dot product then becomes.
tile::LogitRule logit_rule(double scale, double softcap);

/// The keys of a layer as the register tiles read them.
struct PackedKeys {
  std::vector<float> data;  ///< [kv_heads][tiles][head_dim][tile_keys]
  std::int64_t head_stride = 0;
  int tile_keys = 0;

  const float* at(std::int64_t kv_head, std::int64_t first_key, std::int64_t head_dim) const {
    return data.data() + kv_head * head_stride + first_key * head_dim;
  }
};

/// keys [kv_heads, tokens, head_dim] float32 with a contiguous last axis.
PackedKeys pack_keys(const at::Tensor& keys, float factor, const tile::Functions& functions);

}  // namespace kvscope::detail
