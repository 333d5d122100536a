#pragma once

#include <hdf5.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "kvscope/storage/capture_state.h"

namespace kvscope {

/// One row of the commit ring: how much of a live capture is valid.
struct Commit {
  std::uint64_t sequence = 0;  ///< counts from 1; row sequence % ring_rows
  std::uint64_t steps = 0;     ///< decode steps whose rows and tokens are whole
  std::uint64_t log_rows = 0;  ///< rows of /decisions/log

  static constexpr std::size_t ring_rows = 1024;
  static constexpr std::size_t row_bytes = 32;
  std::array<std::uint64_t, 4> row() const;
};

/// The /status datasets of a capture. They are contiguous and of fixed size, so that after their
/// creation they are written in place: a full disk cannot stop the last word, and HDF5 has nothing
/// of theirs to flush.
class LiveStatus {
 public:
  LiveStatus() = default;
  ~LiveStatus();
  LiveStatus(const LiveStatus&) = delete;
  LiveStatus& operator=(const LiveStatus&) = delete;

  /// Creates /status/{state, commit, layer_done, message_bytes} and leaves them allocated.
  void create(hid_t file, std::int64_t layers);
  /// Opens `path` for writing in place, and locks it if `lock`: nobody may write it anew.
  void open(const std::string& path, bool lock);
  bool is_open() const { return descriptor_ >= 0; }
  void close();

  /// Makes the file look as it did while it was live: after HDF5 failed to close it, it would
  /// otherwise pass for whole and be found too short.
  void restore_superblock();
  void set_state(CaptureState state);
  void set_layer_done(std::int64_t row);
  void set_message(const std::string& message);
  /// Everything the row speaks of must have been flushed.
  void commit(std::uint64_t steps, std::uint64_t log_rows);

 private:
  void put(std::uint64_t offset, const void* bytes, std::size_t size);

  int descriptor_ = -1;
  std::string path_;
  std::string superblock_ = std::string(48, '\0');  ///< of format 3, as it was on opening
  std::uint64_t state_at_ = 0;
  std::uint64_t commit_at_ = 0;
  std::uint64_t layer_done_at_ = 0;
  std::uint64_t message_at_ = 0;
  std::uint64_t sequence_ = 0;
};

/// The newest sound row of the ring; nothing if there is no ring or no commit yet.
std::optional<Commit> read_commit(hid_t file);

}  // namespace kvscope
