#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/raster.h"
#include "kvscope/scene/scene.h"

namespace kvscope {

/// Share of the selected KV heads in which a token holds a slot at the state's moment: [layers,
/// tokens] in [0, 1]; NaN for tokens that were not there yet or that the decision does not cover.
std::vector<float> kept_share(const Scene& scene, const SceneDecision& entry, const State& state);

/// Kept share of A minus that of B, in [-1, 1]: [layers, tokens]; NaN where either is.
std::vector<float> share_difference(const std::vector<float>& a, const std::vector<float>& b);

/// When a token lost its slot, as a share of the run: 0 = at the start, 1 = never; mean over the
/// selected heads. [layers, tokens].
std::vector<float> removal_time(const Scene& scene, const SceneDecision& entry, const State& state);

/// How high a token's stored score ranks in its KV head, 1 = best, mean over the selected heads:
/// [layers, tokens]; NaN where no score decided. In heads of more than 4096 tokens ranks are taken
/// against 4096 of them. Empty if no score is stored.
std::vector<float> score_rank(const Scene& scene, const SceneDecision& entry, const State& state);

/// Fate letters of the selected heads, one row for each layer and head: [layers * heads, tokens].
std::string fate_rows(const Scene& scene, const SceneDecision& entry, const State& state);

}  // namespace kvscope
