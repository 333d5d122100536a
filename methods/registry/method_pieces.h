#pragma once

#include <string>
#include <vector>

#include "kvscope/methods/method.h"
#include "registry/entry.h"

namespace kvscope {

/// What a method is made of.
struct Method::Pieces {
  std::string text;    ///< canonical
  std::string preset;  ///< first piece's name
  std::string
      scorer_text;  ///< canonical text of the first piece: methods that share it share scores
  std::vector<detail::Arguments> arguments;  ///< of each piece, in order
  detail::Parts parts;

  bool by_method() const {
    return (parts.cadence && parts.cadence->by_method()) || parts.allocator->by_method() ||
           !parts.selector->fills_grant();
  }
};

}  // namespace kvscope
