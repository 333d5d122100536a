#include <utility>

#include "cadences/decode.h"
#include "registry/entry.h"
#include "scorers/triattention.h"
#include "selectors/selectors.h"

namespace kvscope::detail {

/// TriAttention's score with the greedy selection that avoids similar values.
PieceEntry alpha_entry() {
  TriDefaults defaults;
  defaults.modes = "per_layer_perhead";  // a choice by values belongs to one layer
  defaults.prompts = "evictable|protected";
  defaults.recent = 16;
  PieceEntry entry;
  entry.info.name = "alpha";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary =
      "triattention's score, but tokens are picked one after another, less welcome the more their "
      "values resemble one that was picked; lambda=0 is triattention's own choice, bit for bit";
  entry.info.paper = "Sun et al. 2026, arXiv:2605.14292";
  entry.info.departures =
      "our reading: the paper's formula, and what it protects, are not public. At most a quarter "
      "of the budget protects newest tokens. The seven mechanisms the paper rejects are not public "
      "either; controls of ours by family: cadence every=16,32,64,128,256; scoring trig=false, "
      "space=k_post_rope, '| redundancy' and '| noise'; head-wise routing '| concentration' and "
      "'| pyramid' on a method that cuts once; low-bit caches '| low_bit' with the budget doubled; "
      "resampling: none";
  entry.info.parameters = triattention_parameters(defaults);
  for (const std::vector<ParameterInfo>& more : {diversity_parameters(), decode_parameters()}) {
    entry.info.parameters.insert(entry.info.parameters.end(), more.begin(), more.end());
  }
  entry.info.expands_to =
      "triattention:mode=per_layer_perhead,prompt=evictable,recent=min(16, budget / 4) | diversity "
      "| "
      "decode";
  describe_triattention_score(entry.info);
  entry.build = [](const Arguments& arguments, Parts& parts) {
    constexpr double recent_share = 0.25;
    parts.scorer = make_triattention(arguments, recent_share);
    parts.selector = make_diversity(arguments);
    parts.cadence = make_decode(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
