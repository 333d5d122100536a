#pragma once

#include <string>

namespace kvscope::detail {

bool exists(const std::string& path);
/// Throws Error{usage} if there is a file and `force` is off.
void refuse_existing(const std::string& path, bool force);
/// NAME.decision.h5 beside NAME.capture.h5.
std::string decision_path(const std::string& capture_path);

}  // namespace kvscope::detail
