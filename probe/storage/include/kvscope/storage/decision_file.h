#pragma once

#include <string>

#include "kvscope/core/decision.h"

namespace kvscope {

/// Writes NAME.decision.h5: the /decisions datasets of specs/probe.md 5.5, /axes and root attributes
/// (format "kvscope.decision"). Validates first; temporary name, then rename.
/// Throws Error{io}, Error{usage} if the file exists and `force` is off.
void write_decision(const std::string& path, const Decision& decision, bool force = false);

/// Reads and validates. Throws Error{corrupt_file | io | unsupported}.
Decision read_decision(const std::string& path);

}  // namespace kvscope
