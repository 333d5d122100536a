#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kvscope/core/budget.h"
#include "kvscope/core/cache_form.h"
#include "kvscope/core/decision.h"
#include "kvscope/core/shape.h"

namespace kvscope {

class ModelRun;

/// One parameter of a piece, as `kvscope methods` shows it.
struct ParameterInfo {
  enum class Type { integer, real, boolean, choice, list, text };
  std::string name;
  Type type = Type::integer;
  std::string default_value;
  std::string range;  ///< "1..", "0..1", or the choices joined by "|"
  std::string unit;
  std::string help;  ///< what a larger value does
};

/// One score term, for explanations.
struct TermInfo {
  std::string name;
  std::string unit;
};

/// What a piece or a preset is.
struct PieceInfo {
  enum class Kind { scorer, allocator, selector, merger, representation, cadence, preset };
  std::string name;
  Kind kind = Kind::scorer;
  std::string summary;
  std::string paper;
  std::string departures;  ///< where we differ from the paper, or from the reference code
  std::string scope;       ///< "head", "layer" or "model": how far raw scores compare
  std::vector<ParameterInfo> parameters;
  std::vector<TermInfo> terms;
  /// The formula that makes the score of the terms: names, "*", "+" and a leading "-",
  /// e.g. "column_norm * projected_value_norm + from_neighbours".
  std::string combine;
  std::string expands_to;  ///< presets: the text they stand for
};

/// A method, put together from text (DESIGN section 4) and ready to decide.
class Method {
 public:
  struct Pieces;  ///< private: scorer, allocator, selector, merger, cadence
  explicit Method(std::unique_ptr<Pieces> pieces);
  Method(Method&&) noexcept;
  Method& operator=(Method&&) noexcept;
  ~Method();

  const std::string& text() const;    ///< canonical: parses back to the same method
  const std::string& preset() const;  ///< first piece's name
  std::string descriptor_json() const;
  CacheForm form() const;
  bool by_method() const;  ///< sets its own size
  /// Cuts while the prompt is read, so it starts on a run that has not read it, and only on a live
  /// one.
  bool cuts_while_reading() const;
  const Pieces& pieces() const { return *pieces_; }

 private:
  std::unique_ptr<Pieces> pieces_;
};

/// Every piece and preset, in the order `kvscope methods` lists them.
const std::vector<PieceInfo>& registry();

/// Methods of one text; a list-valued parameter gives one for each value. Throws Error{usage}
/// naming the unknown piece or parameter with the nearest name, or the value with its range.
std::vector<Method> parse_methods(const std::string& text);

/// What is known of a run before any forward pass.
struct RunPlan {
  const ModelShape& shape;
  std::string model_hash;
  int prompt_tokens = 0;
};

/// Throws Error{usage} if the method cannot work on such a run, or cannot meet the budget there.
void check_method(const Method& method, const Budget& budget, const RunPlan& plan);

/// How many of the newest queries a live run must keep for the method: LiveRunOptions.
int queries_needed(const Method& method, int prompt_tokens);

struct DecideOptions {
  bool scores = false;  ///< store scores
  bool terms = false;   ///< store score terms
  int threads = 0;
  /// What was decided earlier in this run, and applied: the cut is then made on the slots that are
  /// left, and the answer holds the earlier events too. Null on a cache that was never cut.
  const Decision* before = nullptr;
};

/// Decides on the cache as it is, usually after prefill: score, allocate, select, merge for every
/// layer, with a barrier where the scope is the model. Throws Error{usage} if the budget is smaller
/// than what the method protects, before any work; Error{missing_data} if the run lacks what the
/// method reads.
Decision decide(ModelRun& run, const Method& method, const Budget& budget,
                const DecideOptions& options = {});

/// Several methods and budgets on one run; each layer's evidence is read once.
std::vector<Decision> decide_all(ModelRun& run, const std::vector<Method>& methods,
                                 const std::vector<Budget>& budgets,
                                 const DecideOptions& options = {});

/// A method at work on one live run, under its cadence. Refers to the run, which must outlive it;
/// what the method remembers between cuts lives here, by layer, KV head and token.
class Compressor {
 public:
  virtual ~Compressor() = default;
  /// Reads what is left of the prompt and cuts as the cadence says, at its end at the latest.
  virtual void prefill() = 0;
  /// To be called after each decoded token; cuts when the cadence says so. True if it cut.
  virtual bool after_step() { return false; }
  /// Everything decided so far, over the tokens seen: one event for each cut, in order.
  virtual Decision decision() const = 0;
  /// The same state for a fork of the run.
  virtual std::unique_ptr<Compressor> onto(ModelRun& fork) const = 0;
};

/// Throws Error{usage} if the method cannot meet the budget, or needs a run that has not read its
/// prompt; before any forward pass. `method` must outlive the compressor.
std::unique_ptr<Compressor> start_compressor(ModelRun& run, const Method& method,
                                             const Budget& budget,
                                             const DecideOptions& options = {});

/// Reads what is left of the prompt and cuts: start_compressor, prefill, decision.
Decision compress(ModelRun& run, const Method& method, const Budget& budget,
                  const DecideOptions& options = {});

}  // namespace kvscope
