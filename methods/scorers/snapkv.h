#pragma once

#include <vector>

#include "registry/entry.h"

namespace kvscope::detail {

/// SnapKV's parameters, shared by the presets that build on its score.
std::vector<ParameterInfo> snapkv_parameters();
std::unique_ptr<Scorer> make_snapkv(const Arguments& arguments);
/// Terms and score scope of SnapKV.
void describe_snapkv_score(PieceInfo& info);

}  // namespace kvscope::detail
