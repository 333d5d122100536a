#pragma once

#include <map>
#include <optional>
#include <string>

#include "h5.h"
#include "kvscope/storage/capture_writer.h"
#include "live_status.h"
#include "reserve.h"
#include "temporary_file.h"

namespace kvscope {

/// A series of one row a decode step; its first axis grows as the run goes on.
inline bool is_step_series(const std::string& path) {
  return path.starts_with("steps/");
}

struct CaptureWriter::Impl {
  struct Entry {
    h5::Handle handle;
    DatasetSpec spec;       ///< with the planned extent
    std::int64_t rows = 0;  ///< of a series, so far
  };

  void create_axes(const CaptureIndex& index);
  void create_tokens(const TokenTable& prompt, int planned);
  void attach_scales(const Entry& entry);
  Entry& find(const std::string& name);
  void write_box(Entry& entry, const h5::Extent& offset, const h5::Extent& count, hid_t memory,
                 const void* values);
  void set_series_rows(Entry& entry, std::int64_t rows);
  void set_token_row(int token, std::int32_t id, std::int32_t position, Segment segment,
                     const std::string& piece);
  void set_step_axis(int steps);
  void create_dropped(const std::vector<DatasetSpec>& datasets);
  void add_dropped(const DroppedRange& range);
  void close_file();

  std::optional<TemporaryFile> temporary;  ///< batch mode only
  std::string path;                        ///< of the file being written
  bool live = false;
  bool ended = false;
  h5::Handle file;
  std::map<std::string, Entry> datasets;
  LiveStatus status;
  std::optional<Reserve> reserve;  ///< of a live file
  CaptureIndex index;
  std::vector<int> layers_done;
  std::vector<std::string> dropped_names;  ///< what the rows of /status/dropped count
  std::int64_t dropped_rows = 0;
  int tokens = 0;
  std::int64_t text_bytes = 0;
};

}  // namespace kvscope
