#include "layer_state.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "kvscope/core/error.h"
#include "rotation.h"

namespace kvscope::detail {

LayerState::LayerState(int kv_heads, int head_dim, int capacity, const at::TensorOptions& options)
    : heads_(static_cast<std::size_t>(kv_heads)),
      keys_(at::zeros({kv_heads, capacity, head_dim}, options)),
      values_(at::zeros({kv_heads, capacity, head_dim}, options)) {}

int LayerState::length(int kv_head) const {
  return static_cast<int>(heads_[static_cast<std::size_t>(kv_head)].token.size());
}

int LayerState::longest() const {
  std::size_t slots = 0;
  for (const Head& head : heads_) {
    slots = std::max(slots, head.token.size());
  }
  return static_cast<int>(slots);
}

bool LayerState::uniform() const {
  return std::all_of(heads_.begin(), heads_.end(), [this](const Head& head) {
    return head.token.size() == heads_.front().token.size();
  });
}

std::int64_t LayerState::live_bytes() const {
  const auto dim = static_cast<int>(keys_.size(2));
  const auto number = static_cast<int>(keys_.element_size());
  const std::int64_t whole_row = std::int64_t{dim} * number;
  std::int64_t bytes = 0;
  for (const Head& head : heads_) {
    const auto slots = static_cast<std::int64_t>(head.token.size());
    const auto cut = static_cast<std::int64_t>(head.cut_slots);
    bytes +=
        slots * whole_row + (slots - cut) * whole_row + cut * value_row_bytes(form_, dim, number);
  }
  return bytes;
}

void LayerState::reserve(int count) {
  const std::int64_t live = longest();
  const std::int64_t capacity = keys_.size(1);
  if (live + count <= capacity) {
    return;
  }
  const std::int64_t larger = std::max(live + count, capacity + capacity / 2 + 64);
  const auto grow = [&](at::Tensor& tensor) {
    at::Tensor grown = at::zeros({tensor.size(0), larger, tensor.size(2)}, tensor.options());
    grown.narrow(1, 0, live).copy_(tensor.narrow(1, 0, live));
    tensor = grown;
  };
  grow(keys_);
  grow(values_);
  if (raw_keys_.defined()) {
    grow(raw_keys_);
  }
}

at::Tensor LayerState::next_keys(int kv_head, int count) const {
  return keys_.select(0, kv_head).narrow(0, length(kv_head), count);
}

at::Tensor LayerState::next_values(int kv_head, int count) const {
  return values_.select(0, kv_head).narrow(0, length(kv_head), count);
}

namespace {

void* cell_of(const at::Tensor& rows, std::int64_t kv_head, std::int64_t slot) {
  return static_cast<char*>(rows.mutable_data_ptr()) +
         (kv_head * rows.stride(0) + slot * rows.stride(1)) *
             static_cast<std::int64_t>(rows.element_size());
}

}  // namespace

void* LayerState::next_key_data(int kv_head) const {
  return cell_of(keys_, kv_head, length(kv_head));
}

void* LayerState::next_value_data(int kv_head) const {
  return cell_of(values_, kv_head, length(kv_head));
}

void LayerState::write_raw_keys(const at::Tensor& keys) const {
  for (int kv_head = 0; kv_head < kv_heads(); ++kv_head) {
    raw_keys_.select(0, kv_head)
        .narrow(0, length(kv_head), keys.size(1))
        .copy_(keys.select(0, kv_head));
  }
}

void LayerState::append(int first_token, std::span<const std::int32_t> positions) {
  for (Head& head : heads_) {
    for (std::size_t row = 0; row < positions.size(); ++row) {
      head.token.push_back(first_token + static_cast<int>(row));
      head.position.push_back(positions[row]);
      head.multiplicity.push_back(1.0f);
    }
  }
}

void LayerState::drop_newest(int count) {
  for (int kv_head = 0; kv_head < kv_heads(); ++kv_head) {
    Head& head = heads_[static_cast<std::size_t>(kv_head)];
    const auto live = head.token.size() - static_cast<std::size_t>(count);
    head.token.resize(live);
    head.position.resize(live);
    head.multiplicity.resize(live);
    head.cut_slots = std::min(head.cut_slots, live);
    next_keys(kv_head, count).zero_();
    next_values(kv_head, count).zero_();
    if (raw_keys_.defined()) {
      raw_keys_.select(0, kv_head).narrow(0, length(kv_head), count).zero_();
    }
  }
}

at::Tensor LayerState::keys() const {
  return keys_.narrow(1, 0, longest());
}

at::Tensor LayerState::values() const {
  return values_.narrow(1, 0, longest());
}

at::Tensor LayerState::multiplicity() const {
  if (!merged_) {
    return {};
  }
  const SlotTable table = slots();
  at::Tensor counts = at::empty({kv_heads(), table.slots}, at::kFloat);
  std::copy(table.multiplicity.begin(), table.multiplicity.end(), counts.mutable_data_ptr<float>());
  return counts.to(keys_.device());
}

at::Tensor LayerState::lengths() const {
  if (uniform()) {
    return {};
  }
  at::Tensor live = at::empty({kv_heads()}, at::kInt);
  for (int kv_head = 0; kv_head < kv_heads(); ++kv_head) {
    live.mutable_data_ptr<int>()[kv_head] = length(kv_head);
  }
  return live.to(keys_.device());
}

SlotTable LayerState::slots() const {
  SlotTable table;
  table.kv_heads = kv_heads();
  table.slots = longest();
  const auto cells =
      static_cast<std::size_t>(table.kv_heads) * static_cast<std::size_t>(table.slots);
  table.token.assign(cells, -1);
  table.position.assign(cells, 0);
  table.multiplicity.assign(cells, 0.0f);
  for (int kv_head = 0; kv_head < table.kv_heads; ++kv_head) {
    const Head& head = heads_[static_cast<std::size_t>(kv_head)];
    const auto at = static_cast<std::ptrdiff_t>(table.cell(kv_head, 0));
    table.length.push_back(static_cast<int>(head.token.size()));
    std::copy(head.token.begin(), head.token.end(), table.token.begin() + at);
    std::copy(head.position.begin(), head.position.end(), table.position.begin() + at);
    std::copy(head.multiplicity.begin(), head.multiplicity.end(), table.multiplicity.begin() + at);
  }
  return table;
}

at::Tensor LayerState::stored_keys() const {
  return raw_keys_.defined() ? raw_keys_.narrow(1, 0, longest()) : keys();
}

at::Tensor LayerState::stored_values() const {
  return merged_ && form_.values == CacheForm::Values::sum
             ? values().mul(multiplicity().unsqueeze(-1))
             : values();
}

at::Tensor LayerState::turned(const at::Tensor& rows, const RopeParameters& rope, bool back,
                              int prompt_tokens) const {
  const at::ScalarType type = rows.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor result = at::zeros_like(rows);
  Rotation rotation;
  for (std::size_t head = 0; head < heads_.size(); ++head) {
    const std::vector<std::int32_t>& positions = heads_[head].position;
    if (head == 0 || positions != heads_[head - 1].position) {  // heads are mostly cut alike
      rotation = rotation_of(rope, positions, rows.device(), prompt_tokens, type);
    }
    const auto kv_head = static_cast<std::int64_t>(head);
    const auto live = static_cast<std::int64_t>(positions.size());
    result.select(0, kv_head)
        .narrow(0, 0, live)
        .copy_(rotate(rows.select(0, kv_head).narrow(0, 0, live).to(type), rotation, back));
  }
  return result;
}

void LayerState::store_as(const CacheForm& form, const RopeParameters& rope) {
  if (form == form_) {
    return;
  }
  KVSCOPE_CHECK(!cut_, ErrorCode::unsupported,
                "the cache was cut by a method that stores it in another form", "cache form",
                "start another run, or fork the run before its first cut");
  KVSCOPE_CHECK(form.keys == Frame::post_rope || rope.growth == RopeGrowth::fixed,
                ErrorCode::unsupported,
                "the model's rotation grows with the sequence; its keys cannot be turned again",
                "cache form", "use a method whose cache keeps post-RoPE keys");
  KVSCOPE_CHECK(
      form.keys == Frame::pre_rope || form.positions == CacheForm::Positions::original,
      ErrorCode::unsupported, "post-RoPE keys cannot take other positions", "cache form",
      "use a method whose cache keeps post-RoPE keys at their positions, or pre-RoPE keys");
  form_ = form;
  raw_keys_ = form.keys == Frame::pre_rope ? turned(keys_, rope, true) : at::Tensor();
}

int LayerState::next_position(int by_table) const {
  if (form_.positions == CacheForm::Positions::original || longest() == 0) {
    return by_table;
  }
  int next = -1;
  for (const Head& head : heads_) {
    double seen = static_cast<double>(head.token.size());
    if (form_.positions == CacheForm::Positions::multiplicity) {
      seen = 0;
      for (const float count : head.multiplicity) {
        seen += static_cast<double>(count);
      }
    }
    const auto here = static_cast<int>(std::lround(seen));
    KVSCOPE_CHECK(next < 0 || next == here, ErrorCode::unsupported,
                  "KV heads of one layer have come to different positions", "cache form",
                  "use a method that cuts all heads of a layer alike");
    next = here;
  }
  return next;
}

void LayerState::replace(const LayerCache& cache, const RopeParameters& rope) {
  const SlotTable& table = cache.slots;
  for (int kv_head = 0; kv_head < kv_heads(); ++kv_head) {
    Head& head = heads_[static_cast<std::size_t>(kv_head)];
    const auto first = static_cast<std::ptrdiff_t>(table.cell(kv_head, 0));
    const auto last = first + table.length[static_cast<std::size_t>(kv_head)];
    head.token.assign(table.token.begin() + first, table.token.begin() + last);
    head.position.assign(table.position.begin() + first, table.position.begin() + last);
    head.multiplicity.assign(table.multiplicity.begin() + first, table.multiplicity.begin() + last);
    head.cut_slots = head.token.size();
  }
  merged_ = !table.unmerged();
  cut_ = true;
  const auto with_room = [&](const at::Tensor& rows) {
    at::Tensor roomy = at::zeros({rows.size(0), table.slots + 64, rows.size(2)}, keys_.options());
    roomy.narrow(1, 0, table.slots).copy_(rows.narrow(1, 0, table.slots));
    return roomy;
  };
  if (form_.keys == Frame::pre_rope) {
    raw_keys_ = with_room(cache.keys);
    keys_ = turned(raw_keys_, rope, false);
  } else {
    keys_ = with_room(cache.keys);
  }
  values_ = with_room(merged_ && form_.values == CacheForm::Values::sum
                          ? cache.values.div(multiplicity().clamp_min(1e-6).unsqueeze(-1))
                          : cache.values);
}

LayerState LayerState::clone() const {
  LayerState copy = *this;
  copy.keys_ = keys_.clone();
  copy.values_ = values_.clone();
  copy.raw_keys_ = raw_keys_.defined() ? raw_keys_.clone() : raw_keys_;
  return copy;
}

}  // namespace kvscope::detail
