#pragma once

#include <memory>

#include "cadences/merge_ledger.h"
#include "kvscope/methods/pieces.h"

namespace kvscope::detail {

/// Chunks and sizes of chunked merging.
struct ChunkPlan {
  int chunk = 512;         ///< tokens read at a time
  int sink = 32;           ///< first slots, which never merge
  int cache = 2080;        ///< slots after each cut
  bool final_cut = false;  ///< also cuts when the prompt has been read

  /// Most slots, and slots at the prompt's end.
  struct Slots {
    int peak = 0;
    int end = 0;
  };
  Slots slots(int prompt_tokens) const;
  /// Tokens of the chunk that starts at `first`.
  int length(int first, int prompt_tokens) const;
};

/// As a method's text gives them; -1 stands for what the timing says.
struct ChunkOptions {
  bool by_budget = false;  ///< ours: sizes that meet any budget; else the reference's
  int chunk = -1;
  int sink = -1;
  int cache = -1;
  int final_cut = -1;
};

/// Throws Error{usage} naming `method` if the sizes contradict each other, or if they end with more
/// than `slots` (the budget) of the prompt's tokens.
ChunkPlan plan_chunks(const ChunkOptions& options, int prompt_tokens, const Budget& budget,
                      int budget_slots, const std::string& method);

/// Reads the prompt in chunks. Each chunk but the first looks back at the cache in a probe pass; if
/// the cache is over its size, pairs of neighbours are merged; then the chunk is read.
std::unique_ptr<Cadence> make_chunked_merge(const ChunkOptions& options, const PairMergeRule& rule,
                                            std::unique_ptr<PairWeigher> weigher);

}  // namespace kvscope::detail
