#pragma once

#include <string>

namespace kvscope::cli {

/// CAPTURE.METHOD@KEEP.decision.h5, METHOD being the text with non-alphanumerics as '-' and six
/// hash digits, so that two methods never share a name.
std::string decision_file_name(const std::string& capture_path, const std::string& method,
                               const std::string& keep);

/// Creates a folder and its parents. Throws Error{io}.
void make_folder(const std::string& path);

}  // namespace kvscope::cli
