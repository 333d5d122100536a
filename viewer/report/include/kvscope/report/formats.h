#pragma once

#include <string>

#include "kvscope/core/spectrum.h"
#include "kvscope/report/report.h"

namespace kvscope {

/// For a terminal of 100 columns; UTF-8. Method texts and answers may be longer than a line.
std::string to_text(const Report& report);

/// One JSON object, keys stable (format "kvscope.report", version 1), no NaN: absent numbers are
/// null.
std::string to_json(const Report& report);

/// One tidy table, RFC 4180: a row for each method, layer and KV head.
std::string to_csv(const Report& report);

/// One tidy table: a row for each method and token.
std::string to_csv_tokens(const Report& report);

/// One self-contained page: inline style, pictures and script; light and dark.
std::string to_html(const Report& report);

/// Per layer and projection: norms, ranks and their ratios to the random-matrix null, noise floor,
/// status; then the asymmetry index and the heads where it is largest and smallest, products,
/// adjacent tokens, merge loss and claims where the spectrum has them.
std::string to_text(const Spectrum& spectrum);

/// The same numbers, keys stable (format "kvscope.spectrum.table", version 1), and the claims; what
/// has one number per mode is left to the file.
std::string to_json(const Spectrum& spectrum);

/// One tidy table of the same numbers: table, units, layer, place (projection or head), index,
/// value.
std::string to_csv(const Spectrum& spectrum);

/// One self-contained page: claims, the twelve pictures of the middle layer, all layers.
std::string to_html(const Spectrum& spectrum);

/// Text as a terminal may show it: control characters, those that turn the line round, and bytes
/// that are no UTF-8 become \n, \t, \x1B.
std::string printable(const std::string& bytes);

}  // namespace kvscope
