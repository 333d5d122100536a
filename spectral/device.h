#pragma once

#include <memory>
#include <string>

#include "lapack.h"

namespace kvscope::spectral {

/// The eigensolver of a device: "cpu", "cuda" or "cuda:N". Throws Error{usage} for another name,
/// Error{unsupported} where the CUDA library or a device is missing.
std::shared_ptr<const EigenSolver> solver_for(const std::string& device);

}  // namespace kvscope::spectral
