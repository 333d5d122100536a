#pragma once

#include <string>

#include "kvscope/core/spectrum.h"
#include "kvscope/scene/spectrum_plots.h"

namespace kvscope::report {

/// Tables left to the file in JSON and CSV: spectra, vectors, histograms, one number per mode.
bool is_bulky(const std::string& path);

/// The text tables that follow the spectra: products, tokens, merging, claims; empty where there is
/// nothing.
std::string product_table(const Spectrum& spectrum);
std::string token_table(const Spectrum& spectrum);
std::string merging_table(const Spectrum& spectrum);
std::string claims_table(const Spectrum& spectrum);

/// The group of the first corpus before RoPE, e.g. "homogeneity/notes"; empty without one.
std::string first_corpus(const Spectrum& spectrum);

/// Mean over the finite cells of one row of a table whose first axis is the layer; NaN if none.
double row_mean(const Spectrum& spectrum, const std::string& path, std::size_t row);

/// A plot as inline SVG that follows the page's colours.
std::string svg_plot(const SpectrumPlot& plot);

}  // namespace kvscope::report
