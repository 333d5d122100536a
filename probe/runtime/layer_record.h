#pragma once

#include "forward.h"
#include "kvscope/capture/recorder.h"

namespace kvscope::detail {

/// What one layer of a pass offers to the recorder. A decode step on a cache that no longer holds
/// every token brings its slot table and the newest query's attention along.
LayerRecord record_of(const LayerPass& pass, const LayerState& state, const ModelShape& shape,
                      int first_token);

}  // namespace kvscope::detail
