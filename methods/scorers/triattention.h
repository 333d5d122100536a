#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "kvscope/core/shape.h"
#include "kvscope/methods/pieces.h"
#include "registry/entry.h"

namespace kvscope::detail {

/// The part of TriAttention that depends on the rotation alone.
struct FutureOffsets {
  int count = 17;        ///< distances 1, 2, 4, ..., 2^(count - 1)
  bool maximum = false;  ///< the best distance instead of the mean over distances
};

/// Query centres of one layer, from a calibration.
struct QueryCentres {
  at::Tensor real;       ///< [query_heads, bands]
  at::Tensor imaginary;  ///< [query_heads, bands]
  at::Tensor absolute;   ///< [query_heads, bands] E|q_f|
};

/// Queries whose plain products with cached keys are the trigonometric series (specs 4.3):
/// [distances or 1, query_heads, head_dim] float32, for the next position `next`. Phases in
/// float64.
at::Tensor synthetic_queries(const QueryCentres& centres, const RopeParameters& rope,
                             const FutureOffsets& offsets, std::int64_t next);

/// Both terms of the raw score: {trigonometric, norm}, each [query_heads, slots] float32.
/// keys [kv_heads, slots, head_dim] as cached, rotated. `resultant` weighs the norm term by 1 - R.
struct TriTerms {
  at::Tensor trigonometric;
  at::Tensor norm;
};
TriTerms triattention_terms(const at::Tensor& keys, const QueryCentres& centres,
                            const RopeParameters& rope, const FutureOffsets& offsets,
                            std::int64_t next, bool resultant);

/// How raw scores of query heads become scores of KV heads (specs 5).
struct TriSettling {
  enum class Mode { per_head, per_layer_perhead, union_ };
  Mode mode = Mode::per_head;
  bool group_mean = false;
  bool normalise = true;
  bool sample = false;  ///< sample standard deviation, the serving path's; else population
};

/// Scores of every layer. raw: trigonometric and norm terms of every layer.
std::vector<LayerScores> settle_triattention(const std::vector<TriTerms>& raw,
                                             const TriSettling& settling,
                                             const SettleRequest& request);

/// Where the presets on this score differ. Of choices, the first is the default.
struct TriDefaults {
  std::string modes = "per_head|per_layer_perhead|union";
  std::string prompts = "protected|evictable";
  std::string deviations = "population|sample";
  int recent = 0;  ///< newest tokens that stay
};

/// The parameters of the score and its protection; the cadence's come on top.
std::vector<ParameterInfo> triattention_parameters(const TriDefaults& defaults);

/// Reads the calibration. `recent_share`: the most of the budget that newest tokens may protect.
std::unique_ptr<Scorer> make_triattention(const Arguments& arguments, double recent_share);

void describe_triattention_score(PieceInfo& info);

}  // namespace kvscope::detail
