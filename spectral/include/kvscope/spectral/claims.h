#pragma once

#include <cstdint>

#include "kvscope/core/spectrum.h"

namespace kvscope {

/// Fills `spectrum.claims` from its tables (specs/spectral.md 4.5): statements of the KVSlimmer
/// paper as statistics with a 95 % interval, a p-value and a count. A share is tested against a
/// fair coin and has Wilson's interval; a rank correlation over heads is tested by 10,000 seeded
/// permutations and has Fisher's. A claim holds if its interval lies on the claimed side of chance,
/// fails if on the other, and is undecided if it holds chance. Without the tokens stage the claims
/// that need it have no data.
void add_claims(std::uint64_t seed, Spectrum& spectrum);

}  // namespace kvscope
