#pragma once

#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "kvscope/storage/capture_reader.h"

namespace kvscope::test {

/// A dataset of a capture, its cells in order.
inline std::vector<float> read_whole(const CaptureReader& reader, const std::string& name) {
  const std::vector<std::int64_t> extent = reader.shape(name);
  const std::int64_t cells =
      std::accumulate(extent.begin(), extent.end(), std::int64_t{1}, std::multiplies<>());
  std::vector<float> values(static_cast<std::size_t>(cells));
  reader.read(name, std::vector<std::int64_t>(extent.size(), 0), extent, std::span(values));
  return values;
}

}  // namespace kvscope::test
