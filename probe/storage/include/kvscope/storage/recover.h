#pragma once

#include <string>

namespace kvscope {

/// What `recover_capture` saved.
struct Recovered {
  int steps = 0;        ///< decode steps
  int layers_done = 0;  ///< captured layers whose prompt planes are whole
  int layers = 0;       ///< captured layers
  int state = 0;        ///< of the run, as the file says
};

/// Copies what was committed of a live capture whose writer is gone to a fresh file `output`; never
/// edits `path`. The copy keeps the state, so that it still says how the run ended (a run that was
/// killed says `error`). Throws Error{usage} if the file is still being written or was finished,
/// Error{corrupt_file} if it holds no commit.
Recovered recover_capture(const std::string& path, const std::string& output, bool force = false);

}  // namespace kvscope
