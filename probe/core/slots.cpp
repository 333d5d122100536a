#include "kvscope/core/slots.h"

#include <algorithm>

namespace kvscope {

bool SlotTable::uniform() const {
  return std::all_of(length.begin(), length.end(), [this](int live) { return live == slots; });
}

bool SlotTable::unmerged() const {
  for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
    for (int slot = 0; slot < length[static_cast<std::size_t>(kv_head)]; ++slot) {
      if (multiplicity[cell(kv_head, slot)] != 1.0f) {
        return false;
      }
    }
  }
  return true;
}

SlotTable SlotTable::full(int kv_heads, int tokens) {
  SlotTable table;
  table.kv_heads = kv_heads;
  table.slots = tokens;
  const std::size_t cells = static_cast<std::size_t>(kv_heads) * static_cast<std::size_t>(tokens);
  table.length.assign(static_cast<std::size_t>(kv_heads), tokens);
  table.token.resize(cells);
  table.multiplicity.assign(cells, 1.0f);
  for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
    for (int slot = 0; slot < tokens; ++slot) {
      table.token[table.cell(kv_head, slot)] = slot;
    }
  }
  table.position = table.token;
  return table;
}

}  // namespace kvscope
