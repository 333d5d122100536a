#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "kvscope/core/shape.h"
#include "kvscope/kernels/attention_stats.h"
#include "layer_state.h"
#include "newest_queries.h"

namespace kvscope::detail {

/// What a live run remembers of one layer for evidence: the newest queries, and column statistics
/// over all queries where they were asked for. Columns are slots and follow every cut.
struct LayerStatistics {
  NewestQueries newest;  ///< post-RoPE, LSE at the time of the query
  int queries_seen = 0;
  at::Tensor sum;          ///< [query_heads, slots or more]; undefined: not collected
  at::Tensor decode_sum;   ///< likewise, queries of decode steps alone
  at::Tensor sum_squares;  ///< likewise
  at::Tensor max;          ///< likewise

  LayerStatistics clone() const;
};

/// A pass of one layer, as statistics need it: its slots are appended to `state` already.
struct StatisticsPass {
  at::Tensor queries;                       ///< [query_heads, rows, head_dim]
  at::Tensor lse;                           ///< [query_heads, rows or fewer], of the newest rows
  std::span<const std::int32_t> positions;  ///< [rows]
  bool decode = false;                      ///< a decode step's
  AttentionStats stats = {};                ///< of these queries, or empty: then they are computed
};

/// Keeps the newest `window` queries.
void remember_queries(LayerStatistics& statistics, const StatisticsPass& pass, int window);

/// Adds every query of the pass to the column statistics. Needs the LSE of every row.
void add_columns(LayerStatistics& statistics, const StatisticsPass& pass, const LayerState& state,
                 const ModelShape& shape, int layer);

/// Follows a cut: columns of `before` are gathered to the slots of `after`, token by token. A
/// merged slot keeps its own token's statistics only.
void follow_cut(LayerStatistics& statistics, const SlotTable& before, const SlotTable& after,
                const ModelShape& shape);

}  // namespace kvscope::detail
