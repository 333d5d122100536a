#pragma once

#include <memory>
#include <vector>

#include "kvscope/methods/pieces.h"
#include "registry/arguments.h"

namespace kvscope::detail {

std::unique_ptr<Selector> make_top_k();
/// Every score of at least `at` stays.
std::unique_ptr<Selector> make_threshold(double at);
/// Chunks of `size` neighbouring tokens stay or go as one (specs/baselines.md C2).
std::unique_ptr<Selector> make_chunks(int size);
ParameterInfo chunk_size_parameter();
/// The parameters of `diversity`, and the selector they describe; presets with it have them too.
std::vector<ParameterInfo> diversity_parameters();
std::unique_ptr<Selector> make_diversity(const Arguments& arguments);
/// Likewise of `critical`.
std::vector<ParameterInfo> critical_parameters();
std::unique_ptr<Selector> make_critical(const Arguments& arguments);

}  // namespace kvscope::detail
