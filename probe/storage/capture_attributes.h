#pragma once

#include <hdf5.h>

#include <string>

#include "kvscope/core/capture_index.h"

namespace kvscope {

/// Root attributes of a capture (specs 5.3), both ways. Reading checks every size against the
/// others.
void write_index(hid_t file, const CaptureIndex& index);
CaptureIndex read_index(hid_t file, const std::string& path);

}  // namespace kvscope
