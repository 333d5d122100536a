#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/bookmarks.h"

namespace kvscope::gui {

/// Bookmarks of the file `path`; none if it is empty or does not exist. Throws Error{io |
/// corrupt_file | usage}.
std::vector<Bookmark> load_bookmarks(const std::string& path, const std::string& capture_hash);

/// Writes them under a temporary name and renames. Returns what to tell the user. Throws Error{io}.
std::string save_bookmarks(const std::string& path, const std::vector<Bookmark>& bookmarks,
                           const std::string& capture_hash);

/// The first of kvscope-1.EXTENSION, kvscope-2.EXTENSION ... in the current folder that is free.
std::string free_name(const std::string& extension);

/// Writes `text` under such a name and returns it. Throws Error{io}.
std::string save_export(const std::string& extension, const std::string& text);

}  // namespace kvscope::gui
