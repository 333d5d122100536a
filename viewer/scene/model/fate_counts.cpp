#include "kvscope/scene/fate_counts.h"

#include <fmt/format.h>

namespace kvscope {
namespace {

bool holds_slot(Fate fate) {
  return fate == Fate::kept || fate == Fate::skipped;
}

std::int64_t* counter(FateCounts& counts, char letter) {
  switch (letter) {
    case 'K':
      return &counts.kept;
    case 'P':
      return &counts.protected_by_rule;
    case 'T':
      return &counts.target;
    case 'M':
      return &counts.merged;
    case 'E':
      return &counts.evicted;
    case 'D':
      return &counts.dropped;
    case 'S':
      return &counts.skipped;
    default:
      return nullptr;
  }
}

}  // namespace

const char* fate_name(char letter) {
  switch (letter) {
    case 'K':
      return "kept";
    case 'P':
      return "protected";
    case 'T':
      return "target";
    case 'M':
      return "merged";
    case 'E':
      return "evicted";
    case 'D':
      return "dropped in merge";
    case 'S':
      return "skipped";
    case 'N':
      return "not yet";
    default:
      return "unknown";
  }
}

std::int64_t FateCounts::of(char letter) const {
  FateCounts copy = *this;
  const std::int64_t* found = counter(copy, letter);
  return found == nullptr ? 0 : *found;
}

void FateCounts::add(char letter, std::int64_t cells) {
  if (std::int64_t* found = counter(*this, letter)) {
    *found += cells;
  }
}

FateCounts& FateCounts::operator+=(const FateCounts& other) {
  kept += other.kept;
  protected_by_rule += other.protected_by_rule;
  target += other.target;
  merged += other.merged;
  evicted += other.evicted;
  dropped += other.dropped;
  skipped += other.skipped;
  return *this;
}

double FateCounts::kept_share() const {
  return total() == 0 ? 1.0 : static_cast<double>(holding()) / static_cast<double>(total());
}

double FateCounts::dropped_share() const {
  return removed() == 0 ? 0.0 : static_cast<double>(dropped) / static_cast<double>(removed());
}

FateCounts count_fates(std::string_view letters) {
  FateCounts counts;
  for (const char letter : letters) {
    counts.add(letter);
  }
  return counts;
}

FateTable count_fates(const Decision& decision) {
  FateTable table;
  table.kv_heads = decision.kv_heads;
  for (const LayerDecision& layer : decision.layers) {
    const std::string letters = fate_letters(layer);
    FateCounts sum;
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      table.head.push_back(count_fates(std::string_view(letters).substr(
          layer.cell(kv_head, 0), static_cast<std::size_t>(layer.tokens))));
      sum += table.head.back();
    }
    table.layer.push_back(sum);
    table.total += sum;
  }
  return table;
}

std::vector<int> heads_holding(const Decision& decision) {
  std::vector<int> heads(static_cast<std::size_t>(decision.tokens), 0);
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      for (int token = 0; token < layer.tokens; ++token) {
        heads[static_cast<std::size_t>(token)] +=
            holds_slot(layer.fate[layer.cell(kv_head, token)]);
      }
    }
  }
  return heads;
}

std::vector<int> heads_holding_by_layer(const Decision& decision) {
  const auto tokens = static_cast<std::size_t>(decision.tokens);
  std::vector<int> heads(decision.layers.size() * tokens, 0);
  for (std::size_t row = 0; row < decision.layers.size(); ++row) {
    const LayerDecision& layer = decision.layers[row];
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      for (int token = 0; token < layer.tokens; ++token) {
        heads[row * tokens + static_cast<std::size_t>(token)] +=
            holds_slot(layer.fate[layer.cell(kv_head, token)]);
      }
    }
  }
  return heads;
}

std::string head_list(const std::vector<int>& kv_heads) {
  std::string text;
  for (std::size_t i = 0; i < kv_heads.size();) {
    std::size_t last = i;
    while (last + 1 < kv_heads.size() && kv_heads[last + 1] == kv_heads[last] + 1) {
      ++last;
    }
    if (last - i < 2) {
      last = i;
    }
    text += text.empty() ? "h" : ",";
    text += last == i ? fmt::format("{}", kv_heads[i])
                      : fmt::format("{}-{}", kv_heads[i], kv_heads[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace kvscope
