#include <fmt/format.h>

#include <algorithm>

#include "cadences/chunked_merge.h"
#include "kvscope/core/error.h"

namespace kvscope::detail {

int ChunkPlan::length(int first, int prompt_tokens) const {
  const int left = prompt_tokens - first;
  // A single last token sees no target and would be all the final cut looks with.
  return final_cut && left == chunk + 1 ? left : std::min(chunk, left);
}

ChunkPlan::Slots ChunkPlan::slots(int prompt_tokens) const {
  Slots slots;
  for (int first = 0; first < prompt_tokens;) {
    const int count = length(first, prompt_tokens);
    if (first > 0 && count > 1) {
      slots.end = std::min(slots.end, cache);
    }
    slots.end += count;
    slots.peak = std::max(slots.peak, slots.end);
    first += count;
  }
  if (final_cut && prompt_tokens > 1) {
    slots.end = std::min(slots.end, cache);
  }
  return slots;
}

ChunkPlan plan_chunks(const ChunkOptions& options, int prompt_tokens, const Budget& budget,
                      int budget_slots, const std::string& method) {
  ChunkPlan plan;
  const auto given = [](int value, int otherwise) { return value >= 0 ? value : otherwise; };
  if (options.by_budget) {
    plan = {std::max(32, std::min(512, budget_slots / 2)), std::min(32, budget_slots / 4),
            budget_slots, true};
  }
  plan.cache = given(options.cache, plan.cache);
  plan.sink = given(options.sink, plan.sink);
  plan.chunk = given(options.chunk, plan.chunk);
  plan.final_cut = given(options.final_cut, plan.final_cut ? 1 : 0) == 1;
  KVSCOPE_CHECK(plan.cache > plan.sink, ErrorCode::usage,
                fmt::format("method '{}' keeps {} slots, of which {} are sinks that never merge",
                            method, plan.cache, plan.sink),
                "method text", "give a larger cache= or a smaller sink=");
  KVSCOPE_CHECK(plan.chunk > 1 && plan.chunk >= plan.sink, ErrorCode::usage,
                fmt::format("method '{}' reads chunks of {} tokens, fewer than its {} sinks",
                            method, plan.chunk, plan.sink),
                "method text", "give a larger chunk= or a smaller sink=");
  const ChunkPlan::Slots slots = plan.slots(prompt_tokens);
  KVSCOPE_CHECK(
      slots.end <= budget_slots, ErrorCode::usage,
      fmt::format("method '{}' ends a prompt of {} tokens with {} slots, budget {} allows {}: it "
                  "cuts to {} slots before a chunk of {} is read{}",
                  method, prompt_tokens, slots.end, budget.text(), budget_slots, plan.cache,
                  plan.chunk, plan.final_cut ? "" : ", and not after the last one"),
      "--keep", fmt::format("keep at least {} slots, or use our timing: timing=budget", slots.end));
  return plan;
}

}  // namespace kvscope::detail
