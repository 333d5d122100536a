#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvscope/methods/pieces.h"
#include "registry/arguments.h"

namespace kvscope::detail {

/// The pieces of a method while it is put together; later pieces replace what a preset chose.
struct Parts {
  std::unique_ptr<Scorer> scorer;
  std::unique_ptr<Allocator> allocator;
  std::unique_ptr<Selector> selector;
  std::unique_ptr<Merger> merger;    ///< null: evicted tokens are dropped
  std::unique_ptr<Cadence> cadence;  ///< null: one cut after prefill
  CacheForm form;
};

/// One line of the registry: what a piece is, and how to make it.
struct PieceEntry {
  PieceInfo info;
  std::function<void(const Arguments&, Parts&)> build;
  bool closed = false;  ///< takes no further pieces
};

/// Every piece and preset: the one list.
const std::vector<PieceEntry>& entries();

// Scorers.
PieceEntry full_entry();
PieceEntry random_entry();
PieceEntry streaming_llm_entry();
PieceEntry knorm_entry();
PieceEntry keydiff_entry();
PieceEntry observed_attention_entry();
PieceEntry h2o_entry();
PieceEntry tova_entry();
PieceEntry snapkv_entry();
PieceEntry pyramidkv_entry();
PieceEntry adakv_preset_entry();
PieceEntry criticalkv_entry();
PieceEntry criticaladakv_entry();
PieceEntry lagkv_entry();
PieceEntry cur_entry();
PieceEntry r_kv_entry();
PieceEntry expected_attention_entry();
PieceEntry q_filters_entry();
PieceEntry cap_entry();
PieceEntry leverage_entry();
PieceEntry non_causal_entry();
PieceEntry compactor_entry();
PieceEntry cake_entry();
PieceEntry caote_entry();
PieceEntry chunkkv_entry();
PieceEntry simlayerkv_entry();
PieceEntry finch_entry();
PieceEntry scissorhands_entry();
PieceEntry ahakv_entry();
PieceEntry laprox_entry();
PieceEntry triattention_entry();
PieceEntry triattention_serving_entry();
PieceEntry alpha_entry();
// Presets that cut while the prompt is read.
PieceEntry asymkv_entry();
PieceEntry kvslimmer_entry();
// Allocators.
PieceEntry uniform_entry();
PieceEntry pyramid_entry();
PieceEntry adakv_entry();
PieceEntry pool_entry();
PieceEntry concentration_entry();
PieceEntry cascade_entry();
// Selectors.
PieceEntry top_k_entry();
PieceEntry threshold_entry();
PieceEntry chunks_entry();
PieceEntry spans_entry();
PieceEntry diversity_entry();
PieceEntry noise_entry();
PieceEntry critical_entry();
PieceEntry redundancy_entry();
// Mergers.
PieceEntry drop_entry();
PieceEntry nearest_key_entry();
PieceEntry pivot_entry();
PieceEntry weighted_entry();
PieceEntry cam_entry();
PieceEntry d2o_entry();
// Representations.
PieceEntry low_bit_entry();
// Cadences.
PieceEntry decode_entry();
PieceEntry rows_entry();

}  // namespace kvscope::detail
