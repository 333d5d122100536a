#pragma once

#include <string>
#include <vector>

#include "kvscope/evidence/model_run.h"
#include "kvscope/methods/method.h"
#include "kvscope/methods/pieces.h"
#include "registry/method_pieces.h"

namespace kvscope::detail {

/// Planes of every layer, host side: [layers] of [rows, tokens].
using Planes = std::vector<std::vector<float>>;

/// Scores of one scorer, shared by the methods that name it alike.
struct SharedScores {
  const Scorer* scorer = nullptr;
  std::string text;              ///< of the scorer, and of the budget if it reads that
  BudgetShare share;             ///< of a scorer that reads the budget
  bool across_layers = false;    ///< some method needs the whole model's
  Planes layers;                 ///< [layers] of [kv_heads, tokens]; cleared when done
  std::vector<float> terms;      ///< of the current layer
  std::vector<LayerScores> raw;  ///< [layers] of a scorer that settles
};

/// One method at one budget.
struct Job {
  const Method& method;
  const Budget& budget;
  std::size_t scores;     ///< index into the shared scores
  Protection by_token;    ///< protected tokens
  Protection protection;  ///< the same over the slots of a cache that was cut before
  Decision decision;
  Planes terms;                  ///< [layers] of [terms, kv_heads, tokens]
  Planes settled;                ///< [layers] of [kv_heads, tokens], of a scorer that settles
  std::vector<double> measured;  ///< [layers] by the allocator, if it does

  const Parts& parts() const { return method.pieces().parts; }
  /// Whether one pool of slots serves the model. A selector that sets its own size leaves the
  /// allocator nothing to share out.
  bool ranks_the_model() const {
    return parts().selector->fills_grant() && parts().allocator->scope() == Allocator::Scope::model;
  }
  /// Whether no layer can be decided before all are scored.
  bool needs_every_layer() const { return ranks_the_model() || parts().scorer->settles(); }
};

}  // namespace kvscope::detail
