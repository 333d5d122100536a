#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/core/decision.h"
#include "kvscope/core/tokens.h"

namespace kvscope {

enum class Severity { info, warning, error };

const char* severity_name(Severity severity);

/// One finding of a health check (specs/viewer.md 2.17): what, how much, and where to look first.
struct Finding {
  std::string id;  ///< stable: "rules", "noop", "empty", "budget", ...
  Severity severity = Severity::warning;
  std::string text;
  std::int64_t count = 0;  ///< places it was found in
  int layer = -1;          ///< true index of the first or worst place; -1 = the whole decision
  int kv_head = -1;
  int token = -1;
};

struct CheckOptions {
  double budget_tolerance = 0.01;  ///< of the slots asked
  double lost_share = 0.5;         ///< of the KV heads, for `sink` and `special`
  double dropped_share = 0.05;     ///< of the removals, for `drops`
  double tie_share = 0.01;         ///< of a head's tokens, for `ties`
  double tie_width = 1e-6;         ///< of the cut's magnitude: what counts as equal
  double outlier_factor = 10;      ///< times the layer's median output error
  int frozen_events = 16;          ///< decode cuts in a row
  int frozen_newest = 8;           ///< tokens
};

/// Health checks of one decision, in the order of specs/viewer.md 2.17:
///   rules      a rule of STYLE section 6 is broken
///   noop       nothing was removed although the budget asks for it
///   empty      a KV head holds no slot
///   budget     slots held differ from the budget by more than the tolerance (info when by_method)
///   frozen     cut after cut removes only the newest tokens
///   sink       one of the first 4 tokens is gone in many heads
///   special    a template or question token is gone in many heads (needs tokens)
///   constant   stored scores of a head are all equal, or not finite where a score decided
///   ties       many tokens lie within rounding of the cut (needs stored scores)
///   mass       a merged token hands over a multiplicity below 1
///   drops      a merging method lost many tokens without folding them in
///   identical  every KV head of every layer keeps the same tokens
///   outlier    a head's output error is far above its layer's median
/// `tokens` may be null. A decision whose sizes contradict gets `rules` alone; nothing throws.
std::vector<Finding> check_decision(const Decision& decision, const TokenTable* tokens,
                                    const CheckOptions& options = {});

}  // namespace kvscope
