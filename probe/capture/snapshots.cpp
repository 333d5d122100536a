#include "snapshots.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "chosen_rows.h"

namespace kvscope::detail {
namespace {

bool stores_tensors(const CaptureRequest& request) {
  return request.profile == Profile::qkv || request.profile == Profile::full;
}

/// A table of the slots as a tensor of its own: [kv_heads, slots].
template <typename T>
at::Tensor table_of(const std::vector<T>& cells, const SlotTable& slots, at::ScalarType type) {
  return at::from_blob(const_cast<T*>(cells.data()), {slots.kv_heads, slots.slots}, type).clone();
}

}  // namespace

Snapshots::Snapshots(const CaptureRequest& request, const CaptureIndex& index,
                     const CaptureChoice& choice, WriterThread& thread)
    : request_(request), index_(index), choice_(choice), thread_(thread) {
  for (std::size_t row = 0; any() && row < index.layers.size(); ++row) {
    sums_.push_back(at::zeros({index.shape.query_heads, index.tokens}, at::kFloat));
  }
}

int Snapshots::snapshot_of(int step) const {
  const std::vector<int>& steps = choice_.snapshots;
  const auto found = std::lower_bound(steps.begin(), steps.end(), step);
  return found != steps.end() && *found == step ? static_cast<int>(found - steps.begin()) : -1;
}

void Snapshots::put(const char* name, int snapshot, int row, const at::Tensor& values,
                    bool query_heads) {
  const at::Tensor chosen =
      chosen_rows(values, 0, query_heads ? choice_.query_heads : choice_.kv_heads);
  std::vector<std::int64_t> offset(static_cast<std::size_t>(chosen.dim()) + 2, 0);
  offset[0] = snapshot;
  offset[1] = row;
  std::vector<std::int64_t> count = chosen.sizes().vec();
  count.insert(count.begin(), {1, 1});
  thread_.put(std::string("snapshots/") + name, std::move(offset), std::move(count),
              chosen.clone());
}

void Snapshots::write(int snapshot, int row, const LayerRecord& record, const SlotTable& slots,
                      int tokens) {
  put("attention_sum", snapshot, row, sums_[static_cast<std::size_t>(row)].narrow(1, 0, tokens),
      true);
  put("slot_token", snapshot, row, table_of(slots.token, slots, at::kInt), false);
  put("slot_position", snapshot, row, table_of(slots.position, slots, at::kInt), false);
  put("slot_multiplicity", snapshot, row, table_of(slots.multiplicity, slots, at::kFloat), false);
  if (stores_tensors(request_)) {
    put("keys", snapshot, row, record.keys.to(at::kCPU, at::kFloat), false);
    put("values", snapshot, row, record.values.to(at::kCPU, at::kFloat), false);
  }
}

void Snapshots::add_prompt(int row, const LayerRecord& record, const at::Tensor& attention_sum) {
  if (!any()) {
    return;
  }
  const auto tokens = static_cast<int>(attention_sum.size(1));
  sums_[static_cast<std::size_t>(row)].narrow(1, 0, tokens).copy_(attention_sum);
  if (const int snapshot = snapshot_of(0); snapshot >= 0) {
    write(snapshot, row, record, SlotTable::full(index_.shape.kv_heads, tokens), tokens);
  }
}

void Snapshots::add_step(int step, int row, const LayerRecord& record,
                         const StepAttention& attention) {
  if (!any()) {
    return;
  }
  const SlotTable& slots = *attention.slots;
  const at::Tensor& sums = sums_[static_cast<std::size_t>(row)];
  for (int query_head = 0; query_head < index_.shape.query_heads; ++query_head) {
    const int kv_head = index_.shape.kv_head_of(query_head);
    const float* mass =
        attention.masses.const_data_ptr<float>() + query_head * attention.masses.size(1);
    float* sum = sums.mutable_data_ptr<float>() + query_head * sums.size(1);
    for (int slot = 0; slot < slots.length[static_cast<std::size_t>(kv_head)]; ++slot) {
      sum[slots.token[slots.cell(kv_head, slot)]] += mass[slot];
    }
  }
  if (const int snapshot = snapshot_of(step); snapshot >= 0) {
    write(snapshot, row, record, slots, record.first_query + 1);
  }
}

void Snapshots::end_step(int step) {
  if (const int snapshot = snapshot_of(step); snapshot >= 0) {
    thread_.put("snapshots/step", {snapshot}, {1}, at::full({1}, step, at::kInt));
  }
}

std::vector<DatasetSpec> snapshot_datasets(const CaptureRequest& request, const ModelShape& shape,
                                           int prompt_tokens, ElementType cache_type) {
  const CaptureChoice choice = choose(request, shape, prompt_tokens);
  if (choice.snapshots.empty()) {
    return {};
  }
  const std::int64_t count = std::ssize(choice.snapshots);
  const std::int64_t layers = std::ssize(choice.layers);
  const std::int64_t kv_heads = std::ssize(choice.kv_heads);
  const std::int64_t tokens = static_cast<std::int64_t>(prompt_tokens) + request.new_tokens;
  std::vector<DatasetSpec> specs;
  const auto add = [&](const char* name, std::vector<std::int64_t> extent, ElementType type,
                       const char* units, const char* long_name, const char* formula,
                       std::vector<std::string> labels) {
    DatasetSpec spec;
    spec.path = std::string("snapshots/") + name;
    spec.type = type;
    spec.chunk = extent;
    if (extent.size() > 1) {
      spec.chunk[0] = spec.chunk[1] = 1;
      spec.chunk[2] = std::min<std::int64_t>(extent[2], extent.size() == 4 ? 8 : 1);
      spec.chunk[3] = std::min<std::int64_t>(extent[3], extent.size() == 4 ? 16384 : 2048);
    }
    spec.shape = std::move(extent);
    spec.units = units;
    spec.long_name = long_name;
    spec.formula = formula;
    spec.queries = "all queries up to the snapshot";
    spec.group_reduce = "none";
    spec.kernel = "kvscope attention_stats";
    spec.labels = std::move(labels);
    specs.push_back(std::move(spec));
  };
  add("step", {count}, ElementType::i4, "step", "step of the snapshot, 0 = after the prompt", "s",
      {"snapshot"});
  add("attention_sum", {count, layers, std::ssize(choice.query_heads), tokens}, ElementType::f4,
      "attention", "attention received so far, of merged slots at their own token", "sum_i p_ij",
      {"snapshot", "layer", "query_head", "token"});
  const std::vector<std::int64_t> table = {count, layers, kv_heads, tokens};
  const std::vector<std::string> labels = {"snapshot", "layer", "kv_head", "slot"};
  add("slot_token", table, ElementType::i4, "token", "token whose place a slot is", "j", labels);
  add("slot_position", table, ElementType::i4, "position", "position RoPE was given", "pos",
      labels);
  add("slot_multiplicity", table, ElementType::f4, "tokens", "tokens a slot stands for", "m_j",
      labels);
  if (stores_tensors(request)) {
    const std::vector<std::int64_t> rows = {count, layers, kv_heads, tokens, shape.head_dim};
    const std::vector<std::string> channels = {"snapshot", "layer", "kv_head", "slot", "channel"};
    add("keys", rows, cache_type, "1", "keys of the slots after RoPE", "k_j", channels);
    add("values", rows, cache_type, "1", "values of the slots", "v_j", channels);
  }
  return specs;
}

}  // namespace kvscope::detail
