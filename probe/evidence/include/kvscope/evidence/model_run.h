#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kvscope/core/cache_form.h"
#include "kvscope/core/decision.h"
#include "kvscope/core/error.h"
#include "kvscope/core/tokens.h"
#include "kvscope/evidence/layer_evidence.h"

namespace kvscope {

/// Whether a pass computes gradients of its keys, and in which number type.
enum class KeyGradient {
  none,
  float32,  ///< back through the pass as it was computed
  float64,  ///< the pass computed again in float64, from the cache as it is stored, and back
};

/// What a forward pass does with the tokens it is given, and what it should leave behind.
struct ForwardRequest {
  bool append = true;         ///< false: the cache is as before afterwards (a probe)
  bool statistics = false;    ///< accumulate attention sums for later evidence
  /// Gradients for `observe`: one backward pass, a layer at a time, newest layer first. Needs two
  /// tokens, and costs about three passes (float64: several times that).
  KeyGradient key_gradient = KeyGradient::none;
  /// Called once for each layer of the pass, after its attention (with `key_gradient`: on the way
  /// back). The evidence's newest slots are the tokens of the pass, its queries are theirs, in
  /// float32, and nothing of it outlives the call: memory stays that of one layer.
  std::function<void(const LayerEvidence&)> observe = {};
};

/// A whole run: what a cadence drives. Implemented on a live cache by the runtime, and on a capture
/// by CaptureRun (where forward, apply and logits throw Error{unsupported}).
class ModelRun {
 public:
  virtual ~ModelRun() = default;
  virtual const ModelShape& shape() const = 0;
  virtual const TokenTable& tokens() const = 0;
  virtual int tokens_seen() const = 0;
  virtual int step() const = 0;
  virtual bool live() const = 0;
  virtual std::string capture_hash() const = 0;
  virtual std::string model_name() const = 0;
  /// Of the weights: what calibrations refer to. Empty: not known.
  virtual std::string model_hash() const { return {}; }
  /// Evidence of one layer as of now. Valid until the next forward or apply.
  virtual std::unique_ptr<LayerEvidence> layer(int layer) = 0;
  virtual void forward(std::span<const std::int32_t> token_ids, const ForwardRequest& request) = 0;
  /// Cuts the cache by the newest event of `decision` (all of them if it was never cut).
  virtual void apply(const Decision& decision) = 0;
  /// How the cache is stored from here on; to be called before the first token. Throws
  /// Error{unsupported} for what the run cannot store.
  virtual void store_as(const CacheForm& form) {
    KVSCOPE_CHECK(form == CacheForm{}, ErrorCode::unsupported,
                  "this run cannot store its cache in another form", "store_as",
                  "use a live run");
  }
  virtual at::Tensor logits() = 0;  ///< [vocabulary] float32 of the newest token
};

}  // namespace kvscope
