#pragma once

#include <future>
#include <string>
#include <vector>

#include "kvscope/core/attention_tile.h"
#include "kvscope/scene/scene.h"
#include "kvscope/storage/isolated.h"

namespace kvscope::gui {

/// Reads a capture, decisions and a spectrum, told apart by what they are, on a thread of its own:
/// the one that owns every HDF5 handle. What changed since it was last seen goes through `checker`
/// first, unless that is null. The future throws Error{io | corrupt_file | usage}.
std::future<Scene> load_scene(std::vector<std::string> paths, const FileChecker* checker);

/// Attention of one query head's stored queries (layer: true index), computed on that thread,
/// likewise. The future throws Error{missing_data | io | corrupt_file}.
std::future<AttentionTile> load_attention(const CaptureIndex& capture, int layer, int query_head,
                                          const FileChecker* checker);

}  // namespace kvscope::gui
