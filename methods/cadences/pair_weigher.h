#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cadences/pair_scores.h"
#include "kvscope/evidence/model_run.h"

namespace kvscope::detail {

/// Slots that become one, left to right, in one KV head: mid slots first, first + 1, ...
struct MergedRun {
  std::vector<double> weight;  ///< [slots] of each key, for those who explain; sums to about 1
  std::vector<float> key;      ///< [head_dim] the finished key; empty: the weights say it all
};

/// How the keys of neighbouring slots are weighed. Sees each layer once per probe.
class PairWeigher {
 public:
  virtual ~PairWeigher() = default;
  virtual KeyGradient gradient() const = 0;
  /// Whether a probe that cuts nothing still leaves something behind.
  virtual bool remembers() const { return false; }
  /// Looks at one layer; what it remembers of slots between probes is kept by token.
  virtual void look(const ChunkView& view) = 0;
  /// Weights of `count` neighbours from pair `first`, as `look` saw the layer last.
  virtual MergedRun weigh(const ChunkView& view, int kv_head, int first, int count) = 0;
  /// What is worth knowing of all merges so far, counted.
  virtual std::vector<std::pair<std::string, std::int64_t>> remarks() const { return {}; }
  virtual std::unique_ptr<PairWeigher> clone() const = 0;
};

/// What AsymKV and KVSlimmer share: chunks, what is ranked, and what becomes of runs.
struct PairMergeRule {
  PairRanking ranking;
  int clamp = 5;       ///< largest multiplicity of a merged slot; 0 = none
  bool chain = false;  ///< a run of pairs becomes one slot; else all but its first pair is dropped
};

}  // namespace kvscope::detail
