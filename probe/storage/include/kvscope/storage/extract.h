#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvscope/core/capture_index.h"

namespace kvscope {

/// What is kept of a capture.
struct ExtractRequest {
  std::vector<int> layers;         ///< true indices, ascending; empty = all it has
  int prompt_tokens = 0;           ///< the first of the prompt; 0 = all. Fewer: no decode steps
  int steps = -1;                  ///< the first decode steps; -1 = all
  std::optional<Profile> profile;  ///< one that stores less
  int stored_queries = 1024;       ///< newest kept where `full` becomes `qkv`
};

/// What `extract_capture` wrote.
struct Extracted {
  CaptureIndex index;
  std::vector<std::string>
      left_out;  ///< datasets that a shorter prompt has not, or that the profile
                 ///< does not store; of each layer's, the first layer's
};

/// Writes a smaller capture `output`, as a run with this request would have made it; `path` stays
/// as it is. Of a shorter prompt, only what no later token has a part in is kept: sums and maxima
/// over queries are left out, and so is what was generated. What the new file is cut from stands in
/// its `notes`. Throws Error{usage} if the request asks for what the file has not, or names nothing
/// to cut, or if the capture is not complete.
Extracted extract_capture(const std::string& path, const std::string& output,
                          const ExtractRequest& request, bool force = false);

}  // namespace kvscope
