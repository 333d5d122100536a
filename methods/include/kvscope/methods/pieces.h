#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "kvscope/core/budget.h"
#include "kvscope/core/decision.h"
#include "kvscope/evidence/layer_evidence.h"

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

/// What a scorer says about one layer.
struct LayerScores {
  at::Tensor scores;  ///< [kv_heads, tokens] float32; higher = keep; protected columns are ignored
  at::Tensor terms;   ///< [terms, kv_heads, tokens] float32, undefined unless asked for
};

/// How important each token is. Sees nothing later than the evidence's moment, never counts, never
/// drops, and does not know the budget.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual LayerScores score(const LayerEvidence& evidence, bool terms) const = 0;
  /// Rules of the method: tokens that stay whatever their score, at `slots_per_head` slots each.
  virtual Protection protect(int tokens, int slots_per_head) const {
    (void)slots_per_head;
    return Protection(tokens);
  }
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
};

/// Slots of each head, protected tokens included.
struct Allocation {
  std::vector<int> slots;       ///< [layers asked, kv_heads]
  std::vector<int> floor_only;  ///< [layers asked, kv_heads] of these, held by a head's floor alone

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
  /// The fewest slots any head can get: what must cover the protected tokens.
  virtual int smallest_grant(const Budget& budget, const BudgetScope& scope,
                             int protected_tokens) const {
    (void)protected_tokens;
    return budget.slots_per_head(scope);
  }
  virtual bool by_method() const { return false; }
};

/// One KV head, as a selector sees it.
struct HeadScores {
  std::span<const float> scores;  ///< [tokens]
  const Protection& protection;
};

/// Which of the unprotected tokens stay.
class Selector {
 public:
  virtual ~Selector() = default;
  /// Unprotected tokens that stay, best first; `slots` is what the head may hold beside the
  /// protected ones. Equal scores: the lower token stays.
  virtual std::vector<int> select(const HeadScores& head, int slots) const = 0;
  /// Why tokens stay or go.
  virtual Reason reason() const { return Reason::score; }
  /// Whether as many stay as were granted.
  virtual bool fills_grant() const { return true; }
};

/// Where the evicted tokens' content goes. Never changes which tokens hold a slot.
class Merger {
 public:
  virtual ~Merger() = default;
  /// Turns evicted cells of `decision` into merged ones with edges, or into evicted ones with
  /// Reason::merger_declined.
  virtual void merge(const LayerEvidence& evidence, LayerDecision& decision) const = 0;
};

}  // namespace kvscope
