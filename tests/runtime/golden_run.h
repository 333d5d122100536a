#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "kvscope/runtime/live_run.h"

namespace kvscope::test {

/// A committed golden, `tests/golden/NAME`.
inline nlohmann::json read_golden(const std::string& name) {
  std::ifstream file(std::string(KVSCOPE_SOURCE_DIR) + "/tests/golden/" + name);
  return nlohmann::json::parse(file);
}

/// A prompt of ids without text.
inline TokenTable prompt_of(std::span<const std::int32_t> ids) {
  TokenTable table;
  for (const std::int32_t id : ids) {
    table.append(id, table.size(), Segment::context, "");
  }
  table.prompt_tokens = table.size();
  table.context_tokens = table.size();
  return table;
}

/// Tokens that a run chooses greedily after its prompt.
inline std::vector<std::int32_t> greedy_tokens(LiveRun& run, std::size_t count) {
  std::vector<std::int32_t> chosen;
  while (chosen.size() < count) {
    if (!chosen.empty()) {
      run.decode(chosen.back(), nullptr);
    }
    chosen.push_back(sample(run.logits(), {}, static_cast<int>(chosen.size())));
  }
  return chosen;
}

}  // namespace kvscope::test
