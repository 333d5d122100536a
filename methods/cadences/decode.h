#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kvscope/methods/pieces.h"
#include "registry/arguments.h"

namespace kvscope::detail {

/// When a growing cache is cut back to the budget.
struct DecodeOptions {
  enum class Trigger {
    slack,   ///< as soon as it is `every` slots over the budget
    strict,  ///< at tokens seen divisible by `every`, if it is not below the budget
    /// After every `every` decode steps, if it is over the budget; the count starts anew even if
    /// there was nothing to cut.
    interval,
    since_cut,  ///< `every` decode steps or more after the cut before, if it is over the budget
  };
  int every = 128;
  Trigger trigger = Trigger::slack;
  bool count_prompt = true;    ///< the prompt's slots count for the trigger
  bool at_prompt_end = false;  ///< a first cut at the end of the prompt, if over the budget
  /// Prompt rows read between cuts, each on what the cut before has left; 0: the prompt is read in
  /// one pass. The first pass takes all whole blocks that fit the budget: nothing is cut before.
  int read_block = 0;
  bool while_decoding = true;  ///< cuts go on behind the prompt
};

/// A cache that may be due for a cut.
struct DecodeState {
  int slots = 0;   ///< of a head
  int budget = 0;  ///< slots of a head
  int prompt_tokens = 0;
  int tokens_seen = 0;
  int steps = 0;      ///< decoded since the last interval began
  int since_cut = 0;  ///< decoded since the last cut
};

/// Whether it is due for a cut back to the budget.
bool is_due(const DecodeOptions& options, const DecodeState& state);

/// The parameters of `decode`, which presets with this cadence have too. Of choices, the first is
/// the default.
struct DecodeDefaults {
  int every = 128;
  std::string triggers = "slack|strict|interval|since_cut";
  std::string first_cuts = "trigger|prefill_end";
};
std::vector<ParameterInfo> decode_parameters(const DecodeDefaults& defaults = {});

/// The cadence that these parameters describe.
std::unique_ptr<Cadence> make_decode(const Arguments& arguments);

/// Cuts a live run back to the budget as `options` say; a fraction is made into slots once, against
/// the prompt. Throws as `check_method`.
std::unique_ptr<Compressor> start_decode(ModelRun& run, const Method& method, const Budget& budget,
                                         const DecideOptions& decide, const DecodeOptions& options);

}  // namespace kvscope::detail
