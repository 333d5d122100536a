#pragma once

#include <memory>
#include <vector>

#include "attention_inputs.h"
#include "attention_targets.h"
#include "kvscope/kernels/largest.h"

namespace kvscope::detail {

/// Statistics of streamed rows, a head at a time, as soon as its rows are done.
class StreamedStats {
 public:
  /// `targets` outlives it; `stats.top` is set where it is wanted.
  StreamedStats(const ForwardInputs& in, const AttentionWanted& wanted,
                const ColumnTargets& targets, AttentionStats& stats);

  ~StreamedStats();
  StreamedStats(const StreamedStats&) = delete;
  StreamedStats& operator=(const StreamedStats&) = delete;

  /// What the pass is to keep. It calls back.
  StreamedWatch watch(float* entropy);

 private:
  struct SeenKeys {
    int first = 0;
    int end = 0;
  };
  /// Weights of the keys [first, end) of one part that a row sees.
  struct Part {
    const float* weights = nullptr;
    const float* maxima = nullptr;  ///< of groups of them, where they are kept
    std::int64_t first = 0;
    std::int64_t end = 0;
    float factor = 0;
  };

  SeenKeys seen_by(std::int64_t row, std::int64_t head) const;
  Part part_of(std::int64_t row, std::int64_t head, std::int64_t part, SeenKeys seen) const;
  template <typename Work>
  void for_parts(std::int64_t row, std::int64_t head, SeenKeys seen, const Work& work) const;
  void probabilities(std::int64_t row, std::int64_t head, SeenKeys seen, float* p) const;
  void add_segment(int segment, std::int64_t head) const;
  void add_top(std::int64_t head) const;
  std::vector<RankedValue> top_of_row(std::int64_t head) const;
  float sinks_of_row(std::int64_t head) const;

  const ForwardInputs& in_;
  const AttentionWanted& wanted_;
  const ColumnTargets& targets_;
  std::shared_ptr<TopProbabilities> top_;  ///< null: not wanted
  StreamedWeights& kept_;  ///< this thread's: a step's next layer needs as much room
};

}  // namespace kvscope::detail
