#include "live_status.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "h5.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr std::uint64_t salt = 0x6b7673636f706531u;  // "kvscope1"
constexpr std::int64_t message_bytes = 65536;

/// On the first byte of a live file. A lock of another kind than HDF5's own, which readers hold
/// too.
struct flock writer_lock() {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_len = 1;
  return lock;
}

/// Creates a contiguous dataset, writes zeros (or `value`), and returns where its bytes lie.
std::uint64_t place(hid_t file, const char* path, ElementType type, h5::Extent shape,
                    const char* long_name, std::uint8_t value = 0) {
  DatasetSpec spec;
  spec.path = path;
  spec.type = type;
  spec.shape = std::move(shape);
  spec.units = "1";
  spec.long_name = long_name;
  const auto cells = static_cast<std::size_t>(h5::elements(spec.shape));
  const h5::Handle dataset = type == ElementType::u8
                                 ? h5::store(file, spec, std::vector<std::uint64_t>(cells, value))
                                 : h5::store(file, spec, std::vector<std::uint8_t>(cells, value));
  const haddr_t at = H5Dget_offset(dataset);
  h5::require(at != HADDR_UNDEF, ErrorCode::io, "the dataset has no place in the file", path);
  return at;
}

}  // namespace

const char* state_name(int state) {
  constexpr const char* names[] = {"unused", "loading",  "prefill",
                                   "decode", "done",     "stopped by the user",
                                   "error",  "disk full"};
  return state >= 0 && state < 8 ? names[state] : "unknown";
}

std::string dropped_text(const DroppedRange& range) {
  const std::string steps = range.first_step == 0
                                ? "of the prompt"
                                : fmt::format("steps {} to {}", range.first_step, range.last_step);
  return fmt::format(
      "{}: {}, {}, {} bytes left out", range.dataset, steps,
      range.reason > 1 ? fmt::format("one of {} written", range.reason) : "not all written",
      range.bytes);
}

std::optional<CommitMark> commit_mark(const std::string& path) {
  const h5::Session session;
  if (!h5::may_change(path)) {
    return std::nullopt;
  }
  try {
    const h5::Handle file = h5::open_file(path);
    const std::uint8_t state = h5::load<std::uint8_t>(file, "status/state", {64}).front();
    const std::optional<Commit> commit = read_commit(file);
    if (!commit) {
      return std::nullopt;
    }
    CommitMark mark{commit->sequence, commit->steps, state, 0};
    const h5::Extent layers =
        h5::extent(h5::open_dataset(file, "status/layer_done"), "status/layer_done");
    const auto done = h5::load<std::uint8_t>(file, "status/layer_done", layers);
    mark.layers_done = static_cast<int>(std::count(done.begin(), done.end(), 1));
    return mark;
  } catch (const Error&) {  // it ends just now, or is damaged: whoever reads it will say so
    return std::nullopt;
  }
}

bool being_written(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return false;
  }
  struct flock lock = writer_lock();
  const bool busy = ::fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  ::close(descriptor);
  return busy;
}

std::array<std::uint64_t, 4> Commit::row() const {
  return {sequence, steps, log_rows, sequence ^ steps ^ log_rows ^ salt};
}

LiveStatus::~LiveStatus() {
  close();
}

void LiveStatus::create(hid_t file, std::int64_t layers) {
  state_at_ =
      place(file, "status/state", ElementType::u1, {64},
            "0 unused, 1 loading, 2 prefill, 3 decode, 4 done, 5 stopped, 6 error, 7 disk full",
            static_cast<std::uint8_t>(CaptureState::prefill));
  commit_at_ = place(file, "status/commit", ElementType::u8,
                     {static_cast<std::int64_t>(Commit::ring_rows), 4},
                     "ring of (sequence, steps valid, log rows valid, check)");
  layer_done_at_ = place(file, "status/layer_done", ElementType::u1, {layers},
                         "1 = the layer's prompt planes are written");
  message_at_ = place(file, "status/message_bytes", ElementType::u1, {message_bytes},
                      "last message, UTF-8, ended by a zero");
}

void LiveStatus::open(const std::string& path, bool lock) {
  path_ = path;
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  KVSCOPE_CHECK(descriptor_ >= 0, ErrorCode::io,
                fmt::format("the file cannot be opened again: {}", std::strerror(errno)), path,
                "check that nobody removes it");
  if (lock) {
    struct flock mine = writer_lock();
    static_cast<void>(::fcntl(descriptor_, F_OFD_SETLK, &mine));
    const ssize_t got = ::pread(descriptor_, superblock_.data(), superblock_.size(), 0);
    superblock_.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  }
}

void LiveStatus::close() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
    descriptor_ = -1;
  }
}

void LiveStatus::restore_superblock() {
  put(0, superblock_.data(), superblock_.size());
}

void LiveStatus::put(std::uint64_t offset, const void* bytes, std::size_t size) {
  const char* next = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::pwrite(descriptor_, next, size, static_cast<off_t>(offset));
    KVSCOPE_CHECK(written > 0 || errno == EINTR, ErrorCode::io,
                  fmt::format("the status cannot be written: {}", std::strerror(errno)), path_,
                  "`kvscope recover FILE` saves what was committed");
    if (written > 0) {
      next += written;
      offset += static_cast<std::uint64_t>(written);
      size -= static_cast<std::size_t>(written);
    }
  }
}

void LiveStatus::set_state(CaptureState state) {
  std::array<std::uint8_t, 64> cells{};
  cells.fill(static_cast<std::uint8_t>(state));
  put(state_at_, cells.data(), cells.size());
}

void LiveStatus::set_layer_done(std::int64_t row) {
  const std::uint8_t done = 1;
  put(layer_done_at_ + static_cast<std::uint64_t>(row), &done, 1);
}

void LiveStatus::set_message(const std::string& message) {
  std::string text = message.substr(0, message_bytes - 1);
  text.push_back('\0');
  put(message_at_, text.data(), text.size());
}

void LiveStatus::commit(std::uint64_t steps, std::uint64_t log_rows) {
  const Commit next{++sequence_, steps, log_rows};
  const std::array<std::uint64_t, 4> row = next.row();
  put(commit_at_ + Commit::row_bytes * (sequence_ % Commit::ring_rows), row.data(),
      Commit::row_bytes);
}

std::optional<Commit> read_commit(hid_t file) {
  const h5::Session session;
  if (!h5::exists(file, "status/commit")) {
    return std::nullopt;
  }
  const auto rows = h5::load<std::uint64_t>(file, "status/commit",
                                            {static_cast<std::int64_t>(Commit::ring_rows), 4});
  std::optional<Commit> newest;
  for (std::size_t at = 0; at < rows.size(); at += 4) {
    const Commit row{rows[at], rows[at + 1], rows[at + 2]};
    const bool sound = row.sequence > 0 && row.row()[3] == rows[at + 3] &&
                       row.sequence % Commit::ring_rows == at / 4;
    if (sound && (!newest || row.sequence > newest->sequence)) {
      newest = row;
    }
  }
  return newest;
}

}  // namespace kvscope
