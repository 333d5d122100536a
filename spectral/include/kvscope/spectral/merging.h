#pragma once

#include <string>

#include "kvscope/core/decision.h"
#include "kvscope/core/spectrum.h"

namespace kvscope {

class CaptureReader;

/// What the merges of a decision lose, layer by layer, beside what the spectra predict: the group
/// "merging/<name>". A group of tokens y_i folded into one row m loses sum_i |y_i - m|^2 of
/// sum_i |y_i|^2. `actual` has m from the decision (its finished key row, or the edges' weights)
/// and y from the capture, in the decision's frame; `predicted` replaces the products y_i . y_j by
/// their expectation beta + (1 - beta) rhobar^|i-j| of the head's energy, from
/// "homogeneity/<corpus>", rhobar from adjacent tokens. Both are shares of the energy, [layers,
/// kv_heads], for keys and values. Throws Error{usage} for a decision of another capture, or
/// `corpus` without the tokens stage.
void add_merge_loss(const CaptureReader& capture, const Decision& decision,
                    const std::string& corpus, const std::string& name, Spectrum& spectrum);

}  // namespace kvscope
