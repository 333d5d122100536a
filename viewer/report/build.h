#pragma once

#include "kvscope/report/report.h"
#include "kvscope/scene/moment.h"

namespace kvscope::report {

/// Printable text of `tokens` before (negative) or after a token range, on the same page.
struct Surroundings {
  std::string before;
  std::string text;
  std::string after;
};
Surroundings surroundings(const TokenTable& tokens, int first, int last, int around);

/// Counts one decision; everything of ReportMethod but the answer.
ReportMethod count_method(const Decision& decision, const TokenTable& tokens, const SlotBytes& slot,
                          int lost_tokens);

/// Follows one searched text through all decisions.
FoundText follow(const std::string& needle, const TokenTable& tokens,
                 const std::vector<Decision>& decisions);

/// Where a token was lost, runs of alike layers together: "L0-17 all; L18 h0,1; L21 h1 (E)". The
/// fates stand once where they are all one, else with each place.
std::string lost_places(const FoundToken& token, int kv_heads);

}  // namespace kvscope::report
