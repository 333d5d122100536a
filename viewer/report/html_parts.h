#pragma once

#include <string>
#include <vector>

#include "kvscope/report/report.h"

namespace kvscope::report {

/// Style sheet and the script that sorts tables.
const char* page_style();
const char* page_script();

/// A sortable table; cells are HTML. Columns of `alignment` 'r' sort as numbers.
std::string html_table(const std::vector<std::string>& headings, const std::string& alignment,
                       const std::vector<std::vector<std::string>>& rows);

/// Legend of the fate colours that occur.
std::string fate_legend(const Report& report);

/// The fates of all KV heads (rows, by layer) and tokens (columns) of one method, as an SVG that
/// holds a PNG; brackets mark the texts that were searched for. Above 4096 tokens a column shows
/// the worst fate of several, and says so.
std::string fate_map(const Report& report, const ReportMethod& method);

/// Tokens [first, last) of one method, each on a ground as strong as the share of KV heads that
/// lost it.
std::string token_strip(const Report& report, const ReportMethod& method, int first, int last);

}  // namespace kvscope::report
