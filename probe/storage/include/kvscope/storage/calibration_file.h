#pragma once

#include <string>

#include "kvscope/core/calibration.h"

namespace kvscope {

/// Writes NAME.calibration.h5 under a temporary name and renames it. Throws Error{failed} if an
/// array contradicts the sizes or is not finite, Error{usage} if the file exists and `force` is
/// off, Error{io} where the system refuses.
void write_calibration(const std::string& path, const Calibration& calibration, bool force = false);

/// Reads and checks: sizes against each other and against what is there, every value finite. Arrays
/// of other names are kept, objects that are no arrays of heads ignored. Throws Error{io},
/// Error{corrupt_file}, or Error{unsupported} for a newer major version.
Calibration read_calibration(const std::string& path);

}  // namespace kvscope
