#pragma once

#include <future>
#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope::gui {

/// Reads a capture, decisions and a spectrum, told apart by what they are, on a thread of its own:
/// the one that owns every HDF5 handle. The future throws Error{io | corrupt_file | usage}.
std::future<Scene> load_scene(std::vector<std::string> paths);

}  // namespace kvscope::gui
