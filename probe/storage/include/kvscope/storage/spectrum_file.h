#pragma once

#include <string>

#include "kvscope/core/spectrum.h"

namespace kvscope {

/// Writes NAME.spectrum.h5 (specs/spectral.md 8.2, root attribute format = "kvscope.spectrum").
void write_spectrum(const std::string& path, const Spectrum& spectrum, bool force = false);

/// Throws Error{corrupt_file | io | unsupported}.
Spectrum read_spectrum(const std::string& path);

}  // namespace kvscope
