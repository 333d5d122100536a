#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvscope/core/budget.h"
#include "kvscope/core/decision.h"
#include "kvscope/evidence/layer_evidence.h"
#include "kvscope/methods/method.h"

namespace kvscope {

/// Which tokens stay whatever their score, and why. Apart from the scores: a score means the same
/// whether or not a rule overrides it.
struct Protection {
  std::vector<Reason> reason;  ///< [tokens]; Reason::score = not protected
  int count = 0;               ///< protected tokens

  explicit Protection(int tokens) : reason(static_cast<std::size_t>(tokens), Reason::score) {}
  int tokens() const { return static_cast<int>(reason.size()); }
  bool covers(int token) const { return reason[static_cast<std::size_t>(token)] != Reason::score; }
  /// Protects tokens [first, last), clipped to the sequence; a token keeps its first reason.
  void add(int first, int last, Reason why);
};

/// What a scorer says about one layer. A token here is a slot where the cache was cut before.
struct LayerScores {
  at::Tensor scores;  ///< [kv_heads, tokens] float32; higher = keep; protected columns are ignored
  at::Tensor terms;   ///< [terms, kv_heads, tokens] float32, undefined unless asked for
};

/// What rules of protection may look at.
struct ProtectionRequest {
  int tokens = 0;         ///< seen so far
  int prompt_tokens = 0;  ///< of these or, while the prompt is read, more
  int slots_per_head = 0;
};

/// Raw scores of every layer on their way to what selectors rank.
struct SettleRequest {
  int kv_heads = 0;
  const Protection& protection;  ///< tokens that do not compete
  /// [layers] where the cache was cut before, so that a token here is a slot; empty: it was not.
  std::span<const SlotTable> slots;
  bool terms = false;
};

/// A budget as the rare scorer whose formula names it may see it.
struct BudgetShare {
  int slots = 0;    ///< of a KV head under a uniform split
  double keep = 1;  ///< of the tokens; a fraction as typed, before it was made into slots
};

/// How important each token is. Sees nothing later than the evidence's moment, never counts, never
/// drops, and does not know the budget unless `reads_budget`.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual LayerScores score(const LayerEvidence& evidence, bool terms) const = 0;
  /// Whether the method's own formula names the budget: then `score_within` is asked.
  virtual bool reads_budget() const { return false; }
  virtual LayerScores score_within(const LayerEvidence& evidence, const BudgetShare& share,
                                   bool terms) const {
    (void)share;
    return score(evidence, terms);
  }
  /// How many of the newest queries evidence must hold, for runs that do not keep them all.
  virtual int queries_needed(int prompt_tokens) const {
    (void)prompt_tokens;
    return 0;
  }
  /// Rules of the method: tokens that stay whatever their score, at `slots_per_head` slots each.
  virtual Protection protect(int tokens, int slots_per_head) const {
    (void)slots_per_head;
    return Protection(tokens);
  }
  /// As `protect`, for rules that depend on where the prompt ends.
  virtual Protection protect_in_run(const ProtectionRequest& request) const {
    return protect(request.tokens, request.slots_per_head);
  }
  /// Throws Error{usage} if the method cannot work on such a run, before any forward pass.
  virtual void check(const RunPlan& plan) const { (void)plan; }
  /// Whether `score` gives raw scores, of any number of rows, which mean something only once the
  /// competing tokens, and every layer, are known: `settle` then makes the scores.
  virtual bool settles() const { return false; }
  /// Scores of every layer from the raw ones of every layer.
  virtual std::vector<LayerScores> settle(const std::vector<LayerScores>& raw,
                                          const SettleRequest& request) const {
    (void)request;
    return raw;
  }
  /// Whether layers share one choice, so that they must hold the same tokens when they are cut
  /// again.
  virtual bool shares_choice() const { return false; }
  /// Why a token kept by score holds its slot; Reason::recent where the score is the position.
  virtual Reason kept_reason() const { return Reason::score; }
};

/// What an allocator shares out: consecutive layers and their scores.
struct AllocationRequest {
  const Budget& budget;
  BudgetScope scope;             ///< of the whole model
  const Protection& protection;  ///< of every head alike
  int first_layer = 0;
  /// One [kv_heads, tokens] row-major plane for each layer asked for.
  std::span<const std::vector<float>> scores;
  /// One number for each layer asked for, from `Allocator::measure`; empty if it does not.
  std::span<const double> measured{};
};

/// Slots of each head, protected tokens included.
struct Allocation {
  std::vector<int> slots;       ///< [layers asked, kv_heads]
  std::vector<int> floor_only;  ///< [layers asked, kv_heads] of these, held by a head's floor alone
  int guaranteed = -1;          ///< each head's floor, protected tokens included; -1: there is none

  Allocation(int layers, int kv_heads, int each)
      : slots(static_cast<std::size_t>(layers) * static_cast<std::size_t>(kv_heads), each),
        floor_only(slots.size(), 0) {}
};

/// How many slots each layer and KV head gets. Looks at tokens only through their scores.
class Allocator {
 public:
  enum class Scope { head, layer, model };
  virtual ~Allocator() = default;
  /// What must have been scored before `allocate`: one layer, or the whole model.
  virtual Scope scope() const = 0;
  virtual Allocation allocate(const AllocationRequest& request) const = 0;
  /// Whether it weighs layers by something that their scores do not say: `measure` then sees each.
  virtual bool measures() const { return false; }
  virtual double measure(const LayerEvidence& evidence) const {
    (void)evidence;
    return 0;
  }
  /// As of scorers.
  virtual int queries_needed(int prompt_tokens) const {
    (void)prompt_tokens;
    return 0;
  }
  /// The fewest slots any head can get: what must cover the protected tokens.
  virtual int smallest_grant(const Budget& budget, const BudgetScope& scope,
                             int protected_tokens) const {
    (void)protected_tokens;
    return budget.slots_per_head(scope);
  }
  virtual bool by_method() const { return false; }
  /// Whether it gives every layer and KV head the same, so that a cache it cut can be cut again.
  virtual bool even() const { return false; }
};

/// The rows of a cache, as selectors may ask for them.
/// `projected_norms`: one number a slot, the L1 norm of its value after W_O, mean over the group.
enum class Rows { none, values, keys_post_rope, keys_pre_rope, projected_norms };

/// The budget, for selectors that count something other than slots.
struct BudgetCount {
  const Budget* budget = nullptr;
  int slots = 0;  ///< of a KV head under a uniform split

  /// How many of `things`, which divide `tokens` tokens among them, the budget leaves.
  int of(int things, int tokens) const;
};

/// One KV head, as a selector sees it.
struct HeadScores {
  std::span<const float> scores;  ///< [tokens]
  const Protection& protection;
  /// [tokens, head_dim] what `reads` asked for ([tokens] for norms), else empty
  std::span<const float> rows{};
  int guaranteed = -1;             ///< the head's floor (Allocation::guaranteed)
  std::span<const float> layer{};  ///< [kv_heads, tokens] scores of all heads
  BudgetCount budget{};
};

/// Which of the unprotected tokens stay.
class Selector {
 public:
  virtual ~Selector() = default;
  /// Unprotected tokens that stay, best first; `slots` is what the head may hold beside the
  /// protected ones. Equal scores: the lower token stays.
  virtual std::vector<int> select(const HeadScores& head, int slots) const = 0;
  /// What the choice looks at beside the scores.
  virtual Rows reads() const { return Rows::none; }
  /// Why tokens stay or go.
  virtual Reason reason() const { return Reason::score; }
  /// Whether as many stay as were granted.
  virtual bool fills_grant() const { return true; }
};

/// One layer that was cut, as a merger sees it.
struct MergeRequest {
  const LayerEvidence& evidence;
  std::span<const float> scores{};  ///< [kv_heads, tokens] what the cut ranked
  int steps = 0;                    ///< decode steps since the cut before, or since the prompt
  bool first = true;                ///< whether the cache was never cut before
};

/// Where the evicted tokens' content goes. Never changes which tokens hold a slot.
class Merger {
 public:
  virtual ~Merger() = default;
  /// Turns evicted cells of `decision` into merged ones with edges, or into evicted ones with
  /// Reason::merger_declined.
  virtual void merge(const MergeRequest& request, LayerDecision& decision) const = 0;
};

/// When a method looks and cuts. A method without one cuts once, after prefill.
class Cadence {
 public:
  virtual ~Cadence() = default;
  virtual std::unique_ptr<Compressor> start(ModelRun& run, const Method& method,
                                            const Budget& budget,
                                            const DecideOptions& options) const = 0;
  /// For a method without a scorer: throws Error{usage | unsupported} if it cannot work on such a
  /// run, or cannot meet the budget there.
  virtual void check(const Method& method, const Budget& budget, const RunPlan& plan) const {
    (void)method, (void)budget, (void)plan;
  }
  /// Whether it cuts while the prompt is read.
  virtual bool cuts_while_reading() const { return false; }
  /// Whether `decide` may answer for it from a full cache; else `decide` refuses with `live_only`.
  virtual bool decides_once() const { return false; }
  virtual bool by_method() const { return false; }
  virtual bool merges() const { return false; }
};

}  // namespace kvscope
