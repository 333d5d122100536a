#pragma once

#include <string>

#include "kvscope/report/report.h"

namespace kvscope::report {

inline constexpr int page_width = 100;

/// A heading with a note, after an empty line.
std::string text_title(const std::string& name, const std::string& note);
/// Words on lines of at most the page width, each indented.
std::string wrapped(const std::string& text, int indent, int first_indent);
/// "1:snapkv@0.2".
std::string text_name(const Report& report, int index);
/// "live", "replay" (equal to a live run) or "replay~" (not).
std::string run_word(const ReportMethod& method);

/// Sections of the text report; empty where there is nothing to say.
std::string text_found(const Report& report);
std::string text_agreement(const Report& report);
std::string text_lost(const Report& report);
std::string text_checks(const Report& report);

}  // namespace kvscope::report
