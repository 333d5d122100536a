#pragma once

#include <functional>
#include <string>

namespace kvscope::detail {

/// Runs `work`. Where the host's or the device's memory runs out in it, throws Error{failed} that
/// says how much was asked for last, how much the process holds, and `where()` it stood.
void name_out_of_memory(const std::function<void()>& work,
                        const std::function<std::string()>& where);

}  // namespace kvscope::detail
