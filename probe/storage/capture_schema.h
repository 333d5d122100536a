#pragma once

#include <string>

#include "h5.h"
#include "kvscope/core/capture_index.h"

namespace kvscope {

/// Throws Error{corrupt_file} if the dataset is one of specs/probe.md 5.2 and its extent is not
/// what the file's own sizes ask for. Names the schema does not have are left alone.
void check_capture_extent(const CaptureIndex& index, const std::string& path,
                          const h5::Extent& extent);

/// Which flag captures a dataset; what the error for an absent one recommends.
std::string how_to_capture(const std::string& dataset);

}  // namespace kvscope
