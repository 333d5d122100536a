#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/state.h"

namespace kvscope {

/// A state worth coming back to. Kept in a file beside the capture, never inside it.
struct Bookmark {
  std::string title;
  std::string note;
  State state;
  bool operator==(const Bookmark&) const = default;
};

/// JSON (format "kvscope.bookmarks", version 1); `capture_hash` ties them to one run.
std::string bookmarks_json(const std::vector<Bookmark>& bookmarks, const std::string& capture_hash);

/// Reads them back. Throws Error{corrupt_file} for anything else, Error{usage} if they belong to
/// another run.
std::vector<Bookmark> read_bookmarks(const std::string& json, const std::string& capture_hash,
                                     const std::string& where);

}  // namespace kvscope
