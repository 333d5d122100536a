#include "cache_slots.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

/// Odd factors, fixed.
at::Tensor factors(std::int64_t count, std::uint64_t seed) {
  at::Tensor table = at::empty({count}, at::kLong);
  auto* factor = table.mutable_data_ptr<std::int64_t>();
  for (std::int64_t channel = 0; channel < count; ++channel) {
    seed += 0x9E3779B97F4A7C15u;
    std::uint64_t mixed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    factor[channel] = static_cast<std::int64_t>((mixed ^ (mixed >> 31)) | 1);
  }
  return table;
}

at::Tensor bits_of(const at::Tensor& rows) {
  const at::Tensor dense = rows.contiguous();
  switch (dense.element_size()) {
    case 2:
      return dense.view(at::kShort).to(at::kLong);
    case 4:
      return dense.view(at::kInt).to(at::kLong);
    default:
      return dense.view(at::kLong);
  }
}

/// One number for the bits of each row's key and value: [kv_heads, rows] on the CPU. Sums wrap, so
/// that their order does not matter.
at::Tensor marks_of(const at::Tensor& keys, const at::Tensor& values) {
  const at::Tensor key_factors = factors(keys.size(2), 1).to(keys.device());
  const at::Tensor value_factors = factors(values.size(2), 2).to(values.device());
  return bits_of(keys)
      .mul(key_factors)
      .sum(2)
      .add(bits_of(values).mul(value_factors).sum(2))
      .to(at::kCPU)
      .contiguous();
}

}  // namespace

CacheSlots::CacheSlots(int kv_heads)
    : marks_(static_cast<std::size_t>(kv_heads)), columns_(static_cast<std::size_t>(kv_heads)) {}

void CacheSlots::remember(const at::Tensor& keys, const at::Tensor& values) {
  const at::Tensor marks = marks_of(keys, values);
  const auto* mark = marks.const_data_ptr<std::int64_t>();
  const std::int64_t rows = keys.size(1);
  for (auto& of_head : marks_) {
    of_head.insert(of_head.end(), mark, mark + rows);
    mark += rows;
  }
}

void CacheSlots::enter(const at::Tensor& keys, const at::Tensor& values) {
  remember(keys, values);
  entered_ += static_cast<int>(keys.size(1));
}

void CacheSlots::find_again(const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& hidden) {
  const at::Tensor marks = marks_of(keys, values);
  const auto columns = static_cast<int>(keys.size(1));
  for (std::size_t kv_head = 0; kv_head < columns_.size(); ++kv_head) {
    const auto* mark =
        marks.const_data_ptr<std::int64_t>() + static_cast<std::int64_t>(kv_head) * columns;
    const bool* unseen = hidden.defined() ? hidden.const_data_ptr<bool>() +
                                                static_cast<std::int64_t>(kv_head) * columns
                                          : nullptr;
    std::unordered_multimap<std::int64_t, std::int32_t> tokens;
    for (std::size_t token = 0; token < marks_[kv_head].size(); ++token) {
      tokens.emplace(marks_[kv_head][token], static_cast<std::int32_t>(token));
    }
    std::vector<bool> taken(marks_[kv_head].size(), false);
    columns_[kv_head].clear();
    for (int column = 0; column < columns; ++column) {
      Column found{-1, unseen != nullptr && unseen[column]};
      const auto [first, last] = tokens.equal_range(mark[column]);
      for (auto same = first; same != last; ++same) {  // equal rows: the lowest free token
        const bool lower = found.token < 0 || same->second < found.token;
        const bool free = !taken[static_cast<std::size_t>(same->second)];
        found.token = lower && free ? same->second : found.token;
      }
      KVSCOPE_CHECK(
          found.token >= 0 || found.hidden, ErrorCode::unsupported,
          fmt::format("column {} of KV head {} holds a key and value that the run did not "
                      "compute for any token",
                      column, kv_head),
          "compressed cache",
          "methods that merge, average or rotate keys anew cannot be traced to tokens; "
          "capture a method that only drops them");
      if (found.token >= 0) {
        taken[static_cast<std::size_t>(found.token)] = true;
      }
      columns_[kv_head].push_back(found);
    }
  }
}

void CacheSlots::follow(const at::Tensor& keys, const at::Tensor& values, int rows,
                        const at::Tensor& hidden) {
  if (whole_) {
    for (auto& of_head : columns_) {
      for (int token = 0; token < entered_; ++token) {
        of_head.push_back({token, false});
      }
    }
  }
  const auto columns = static_cast<std::size_t>(keys.size(1));
  if (columns != columns_.front().size() + static_cast<std::size_t>(rows)) {
    find_again(keys, values, hidden);
    return;
  }
  for (auto& of_head : columns_) {
    for (int row = 0; row < rows; ++row) {
      of_head.push_back({entered_ + row, false});
    }
  }
}

bool CacheSlots::see(const at::Tensor& keys, const at::Tensor& values, int rows,
                     const at::Tensor& hidden) {
  const auto columns = static_cast<int>(keys.size(1));
  remember(keys.narrow(1, columns - rows, rows), values.narrow(1, columns - rows, rows));
  if (whole_ && columns == entered_ + rows && !hidden.defined()) {
    entered_ += rows;
    return false;
  }
  const std::vector<std::vector<bool>> held = alive(entered_);
  follow(keys, values, rows, hidden);
  for (std::size_t kv_head = 0; hidden.defined() && kv_head < columns_.size(); ++kv_head) {
    const bool* unseen =
        hidden.const_data_ptr<bool>() + static_cast<std::int64_t>(kv_head) * columns;
    for (Column& column : columns_[kv_head]) {
      column.hidden = *unseen++;
    }
  }
  whole_ = false;
  const bool lost = alive(entered_) != held;
  entered_ += rows;
  return lost;
}

std::vector<std::vector<int>> CacheSlots::ordered(int columns) const {
  std::vector<std::vector<int>> order;
  for (const std::vector<Column>& of_head : columns_) {
    std::vector<int> seen;
    for (int column = 0; column < columns; ++column) {
      if (!of_head[static_cast<std::size_t>(column)].hidden) {
        seen.push_back(column);
      }
    }
    std::sort(seen.begin(), seen.end(), [&](int a, int b) {
      return of_head[static_cast<std::size_t>(a)].token <
             of_head[static_cast<std::size_t>(b)].token;
    });
    order.push_back(std::move(seen));
  }
  return order;
}

SlotTable CacheSlots::table(int columns) const {
  const std::vector<std::vector<int>> order = ordered(columns);
  SlotTable table;
  table.kv_heads = static_cast<int>(columns_.size());
  for (const std::vector<int>& of_head : order) {
    table.length.push_back(static_cast<int>(of_head.size()));
  }
  table.slots = *std::max_element(table.length.begin(), table.length.end());
  const auto cells =
      static_cast<std::size_t>(table.kv_heads) * static_cast<std::size_t>(table.slots);
  table.token.assign(cells, -1);
  table.position.assign(cells, -1);
  table.multiplicity.assign(cells, 0.0f);
  for (int kv_head = 0; kv_head < table.kv_heads; ++kv_head) {
    const auto head = static_cast<std::size_t>(kv_head);
    for (int slot = 0; slot < table.length[head]; ++slot) {
      const int column = order[head][static_cast<std::size_t>(slot)];
      const std::size_t cell = table.cell(kv_head, slot);
      table.token[cell] = columns_[head][static_cast<std::size_t>(column)].token;
      table.position[cell] = table.token[cell];
      table.multiplicity[cell] = 1.0f;
    }
  }
  return table;
}

at::Tensor CacheSlots::order(int columns) const {
  const std::vector<std::vector<int>> order = ordered(columns);
  std::size_t slots = 0;
  for (const std::vector<int>& of_head : order) {
    slots = std::max(slots, of_head.size());
  }
  at::Tensor index = at::zeros({std::ssize(order), static_cast<std::int64_t>(slots)}, at::kLong);
  auto* row = index.mutable_data_ptr<std::int64_t>();
  for (const std::vector<int>& of_head : order) {
    std::copy(of_head.begin(), of_head.end(), row);
    row += slots;
  }
  return index;
}

std::vector<std::vector<bool>> CacheSlots::alive(int tokens) const {
  std::vector<std::vector<bool>> held(columns_.size(),
                                      std::vector<bool>(static_cast<std::size_t>(tokens), whole_));
  for (std::size_t kv_head = 0; kv_head < columns_.size(); ++kv_head) {
    for (const Column& column : columns_[kv_head]) {
      if (!column.hidden && column.token >= 0 && column.token < tokens) {
        held[kv_head][static_cast<std::size_t>(column.token)] = true;
      }
    }
  }
  return held;
}

}  // namespace kvscope::detail
