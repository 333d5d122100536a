#pragma once

#include <memory>

#include "kvscope/methods/pieces.h"

namespace kvscope::detail {

std::unique_ptr<Selector> make_top_k();

}  // namespace kvscope::detail
