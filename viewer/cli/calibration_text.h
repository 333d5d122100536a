#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvscope/core/calibration.h"
#include "kvscope/runtime/model.h"

namespace kvscope::cli {

/// Token ids of a corpus, and what the model puts before a text.
struct CalibrationText {
  std::vector<std::int32_t> ids;
  std::int32_t bos = -1;  ///< -1 = nothing
};

/// Reads the files, each tokenized by itself without BOS. Throws Error{usage} on an empty file, or
/// if there are fewer tokens than a calibration needs.
CalibrationText read_calibration_text(const std::vector<std::string>& files,
                                      const ModelFile& model);

/// Runs the model over the text, with progress on stderr; Ctrl-C stops it. `window`: of
/// CalibrateOptions.
Calibration calibrate_on(const std::shared_ptr<const Model>& model, const CalibrationText& text,
                         int window);

}  // namespace kvscope::cli
