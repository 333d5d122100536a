#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// Scores of decision A in the state's layer and first selected KV head, in equal bins, with the
/// cut.
struct ScoreHistogram {
  std::string missing;       ///< why there is nothing to show, or empty
  bool logarithmic = false;  ///< bins are equal in log10(score): all scores are positive and span
                             ///< more than two decades
  double first = 0;          ///< lower edge of the first bin, in the bins' scale
  double width = 0;          ///< of a bin
  std::vector<double> kept;  ///< [bins] tokens that hold a slot
  std::vector<double> lost;  ///< [bins] tokens that do not
  int by_rule = 0;           ///< tokens without a score: protected or after the cut
  int ties = 0;              ///< tokens within 1e-6 of the cut's magnitude
  double cut = 0;            ///< score of the last kept, in the bins' scale; NaN without
  double token = 0;          ///< score of the selected token, in the bins' scale; NaN without
  double last_kept = 0;      ///< as stored; NaN without
  double first_lost = 0;     ///< as stored; NaN without
};
ScoreHistogram score_histogram(const Scene& scene, const State& state, int bins = 64);

/// What another number of slots in that head would change, from the stored scores alone.
struct BudgetChange {
  bool known = false;       ///< scores are stored
  double cut = 0;           ///< score of the last token that `slots` would keep
  int joining = 0;          ///< tokens kept then and lost now
  int leaving = 0;          ///< tokens lost then and kept now
  bool token_kept = false;  ///< the selected token would hold a slot
  int slots_for_token = 0;  ///< fewest slots that keep the selected token; 0 = by rule or unknown
};
BudgetChange budget_change(const Scene& scene, const State& state, int slots);

}  // namespace kvscope
