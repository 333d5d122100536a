#pragma once

#include <string>
#include <vector>

#include "kvscope/methods/method.h"

namespace kvscope::testing {

/// Method texts that try every piece of the registry: each scorer and preset alone, with each value
/// of its choices and switches, and followed by each later piece with each of its. Windows are made
/// small enough for short prompts.
const std::vector<std::string>& every_text();

/// The score that a piece's formula makes of its terms.
double combined(const PieceInfo& info, const std::vector<double>& terms);

}  // namespace kvscope::testing
