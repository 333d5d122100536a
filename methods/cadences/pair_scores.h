#pragma once

#include <span>
#include <vector>

#include "kvscope/core/slots.h"
#include "kvscope/evidence/layer_evidence.h"

namespace kvscope::detail {

/// One layer while a chunk of the prompt looks back at its cache.
struct ChunkView {
  const LayerEvidence& evidence;
  int layer = 0;
  int past = 0;     ///< slots that may be looked at; the chunk's own lie behind
  int sink = 0;     ///< of these, the first ones that never merge
  int chunk = 0;    ///< index of the chunk, from 0
  int queries = 0;  ///< tokens of the chunk
  /// [query_heads, past] attention mass each slot receives from the chunk's queries, summed.
  std::vector<double> mass;

  ChunkView(const LayerEvidence& evidence, int past, int sink, int chunk, int chunk_tokens);
  int mid() const { return past - sink; }  ///< slots that may merge
  int pairs() const { return mid() - 1; }  ///< neighbours (sink + i, sink + i + 1)
  double mass_of(int query_head, int slot) const {
    return mass[static_cast<std::size_t>(query_head) * static_cast<std::size_t>(past) +
                static_cast<std::size_t>(slot)];
  }
  double multiplicity(int kv_head, int slot) const {
    const SlotTable& table = evidence.slots();
    return static_cast<double>(table.multiplicity[table.cell(kv_head, slot)]);
  }
};

/// How neighbouring slots are ranked for merging.
struct PairRanking {
  enum class Count { per_pair, constant };
  Count count = Count::per_pair;  ///< factor of multiplicities: each pair's own, or one per layer
  bool group_mean = false;        ///< mass averaged over a KV head's query heads, else summed
};

/// score = mass / decay * count; the lowest merge first.
struct PairScores {
  std::vector<double> mass;   ///< [pairs] attention mass of both slots, over heads
  std::vector<double> decay;  ///< [pairs] 512^(i / 4096), i from 1: late pairs look cheaper
  std::vector<double> count;  ///< [pairs] multiplicities of both slots, over KV heads
  std::vector<double> score;  ///< [pairs]
};

/// Paper: AsymKV, arXiv:2506.05410, and KVSlimmer, arXiv:2603.00907, as their code ranks.
PairScores score_pairs(const ChunkView& view, const PairRanking& ranking);

/// The `count` lowest scores: pairs in ascending order. Equal scores: the lower pair first.
std::vector<int> cheapest_pairs(const std::vector<double>& score, int count);

/// Consecutive chosen pairs first, first + 1, ..., first + pairs - 1.
struct PairRun {
  int first = 0;
  int pairs = 0;
};
std::vector<PairRun> runs_of(std::span<const int> ascending_pairs);

}  // namespace kvscope::detail
