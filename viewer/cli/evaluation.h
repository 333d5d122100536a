#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "generation.h"
#include "kvscope/core/tokens.h"

namespace kvscope::cli {

/// One text with a planted fact, and what is asked about it.
struct PlannedPrompt {
  std::string name;
  std::string text;      ///< the needle is in it
  std::string needle;    ///< the fact, word for word
  std::string question;  ///< may be empty: then the text itself is continued
  std::string answer;    ///< what a right answer contains; may be empty
};

/// What to run (format "kvscope.plan", version 1). What is empty comes from the command line or its
/// defaults.
struct EvaluationPlan {
  std::vector<std::string> models;  ///< paths
  std::vector<std::string> methods;
  std::vector<std::string> keeps;
  std::vector<PlannedPrompt> prompts;
  std::vector<std::string> calibration;  ///< paths of texts to calibrate on; may be empty
};

/// Reads the JSON and the texts it names; paths are relative to its folder. A prompt is {"name",
/// "file", "needle", "question", "answer", "depth"}: with a depth in [0, 1] the needle is put in as
/// a line of its own there, without one it must be in the text. Throws Error{io | usage} saying
/// which prompt and field is wrong.
EvaluationPlan read_plan(const std::string& path);

/// One method at one budget on one prompt.
struct EvaluatedRun {
  std::string model;  ///< its name in tables
  std::string prompt;
  int prompt_tokens = 0;
  std::string method;
  std::string keep;
  double divergence = 0;    ///< KL(full || compressed) of the next token, teacher-forced, nats
  double output_error = 0;  ///< relative L2 of attention's output, teacher-forced
  /// Of the needle's cells [layer, KV head, token]: shares that hold their own slot, are folded
  /// into another, and are gone.
  double needle_kept = 0;
  double needle_merged = 0;
  double needle_lost = 0;
  double dropped = 0;     ///< share of all tokens, over layers and heads, dropped in merges
  bool answered = false;  ///< its own answer contains the right one
  bool same = false;      ///< its own answer is the full run's, token for token
  double mean_bytes = 0;  ///< over the answer
  double peak_bytes = 0;
  double full_bytes = 0;    ///< of the uncompressed cache, mean over the answer
  double seconds = 0;       ///< until the answer begins: reading the prompt, and cutting
  double full_seconds = 0;  ///< of the uncompressed prefill
};

/// Needle cells of a decision by what became of them: kept, merged, lost; they add up to 1. A chain
/// of merges that ends in a dropped slot is lost.
struct NeedleFate {
  double kept = 0;
  double merged = 0;
  double lost = 0;
};
NeedleFate needle_fate(const Decision& decision, TokenTable::Range needle);

/// Which cells of a prompt are run, and who gets each result as soon as it is there.
struct EvaluationCells {
  std::string model;  ///< its name in tables
  std::function<bool(const Method&, const Budget&)> wanted;
  std::function<void(const Method&, const Budget&, const EvaluatedRun&)> done;
};

/// One prompt: each method at each budget that is wanted, budget by budget. Returns what the full
/// cache answers.
std::string evaluate_on(const std::shared_ptr<const Model>& model, const PlannedPrompt& prompt,
                        bool chat, const GenerationOptions& options, const LiveRunOptions& live,
                        const EvaluationCells& cells);

/// Means over the prompts, one for each model, method and budget in the order of `runs`.
std::vector<EvaluatedRun> means(const std::vector<EvaluatedRun>& runs);

/// Whether the run's mean cache, as a share of the full one, is within 5 % of the median of the
/// runs at the same budget.
bool memory_matches(const EvaluatedRun& run, const std::vector<EvaluatedRun>& same_budget);

std::string evaluation_text(const std::vector<EvaluatedRun>& runs, bool any_memory);
std::string evaluation_markdown(const std::vector<EvaluatedRun>& runs, bool any_memory);
std::string evaluation_csv(const std::vector<EvaluatedRun>& runs);
nlohmann::ordered_json evaluation_json(const std::vector<EvaluatedRun>& runs);

/// One run with stable keys, and back. Throws nlohmann::json::exception on missing or mistyped
/// ones.
nlohmann::ordered_json run_json(const EvaluatedRun& run);
EvaluatedRun run_of_json(const nlohmann::ordered_json& json);

}  // namespace kvscope::cli
