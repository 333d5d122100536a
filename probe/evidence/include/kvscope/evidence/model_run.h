#pragma once

#include <memory>
#include <span>
#include <string>

#include "kvscope/core/cache_form.h"
#include "kvscope/core/decision.h"
#include "kvscope/core/tokens.h"
#include "kvscope/evidence/layer_evidence.h"

namespace kvscope {

/// What a forward pass does with the tokens it is given, and what it should leave behind.
struct ForwardRequest {
  bool append = true;         ///< false: the cache is as before afterwards (a probe)
  bool statistics = false;    ///< accumulate attention sums for later evidence
  bool key_gradient = false;  ///< leave d loss / d keys behind
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
  virtual void apply(const Decision& decision) = 0;
  virtual at::Tensor logits() = 0;  ///< [vocabulary] float32 of the newest token
};

}  // namespace kvscope
