#pragma once

#include <string>
#include <vector>

#include "fake_run.h"
#include "kvscope/methods/method.h"

namespace kvscope::testing {

/// Method texts that try every piece of the registry: each scorer and preset alone, with each value
/// of its choices and switches, and followed by each later piece with each of its. Windows are made
/// small enough for short prompts. Methods that can decide in a live run only are left out.
const std::vector<std::string>& every_text(const FakeSizes& sizes);

/// The pieces left out by every_text.
std::vector<std::string> live_only();

/// The score that a piece's formula makes of its terms.
double combined(const PieceInfo& info, const std::vector<double>& terms);

}  // namespace kvscope::testing
