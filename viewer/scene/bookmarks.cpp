#include "kvscope/scene/bookmarks.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

using Json = nlohmann::json;

constexpr const char* format_name = "kvscope.bookmarks";

}  // namespace

std::string bookmarks_json(const std::vector<Bookmark>& bookmarks,
                           const std::string& capture_hash) {
  Json list = Json::array();
  for (const Bookmark& bookmark : bookmarks) {
    list.push_back(
        {{"title", bookmark.title}, {"note", bookmark.note}, {"link", to_link(bookmark.state)}});
  }
  const Json root = {
      {"format", format_name}, {"version", 1}, {"capture_hash", capture_hash}, {"bookmarks", list}};
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::vector<Bookmark> read_bookmarks(const std::string& json, const std::string& capture_hash,
                                     const std::string& where) {
  std::vector<Bookmark> bookmarks;
  try {
    const Json root = Json::parse(json);
    KVSCOPE_CHECK(root.at("format") == format_name && root.at("version") == 1,
                  ErrorCode::corrupt_file, "this is no file of bookmarks", where,
                  "move it away; the viewer will write a new one");
    KVSCOPE_CHECK(root.at("capture_hash") == capture_hash, ErrorCode::usage,
                  "the bookmarks belong to another prompt or model", where,
                  "open the capture they were made on");
    for (const Json& entry : root.at("bookmarks")) {
      bookmarks.push_back({entry.at("title").get<std::string>(),
                           entry.at("note").get<std::string>(),
                           from_link(entry.at("link").get<std::string>())});
    }
  } catch (const Json::exception& failure) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("the bookmarks cannot be read: {}", failure.what()), where,
                "move the file away; the viewer will write a new one");
  }
  return bookmarks;
}

}  // namespace kvscope
