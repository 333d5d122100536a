#pragma once

#include <hdf5.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope::h5 {

using Extent = std::vector<std::int64_t>;

/// Holds the library's one lock and silences its own error printing; every call into HDF5 is made
/// under one of these.
class Session {
 public:
  Session();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

/// An HDF5 identifier that closes itself.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { reset(); }
  hid_t get() const { return id_; }
  operator hid_t() const { return id_; }  // NOLINT(google-explicit-constructor): a thin C wrapper
  explicit operator bool() const { return id_ >= 0; }
  /// Closes now; false if the library reports a failure.
  bool reset() noexcept;

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

/// Throws with the library's own reason. `object` is a dataset or file. Write failures of the
/// operating system (disk full) become ErrorCode::io whatever `code` says.
[[noreturn]] void fail(ErrorCode code, const std::string& what, const std::string& object);
inline void require(bool good, ErrorCode code, const std::string& what, const std::string& object) {
  if (!good) {
    fail(code, what, object);
  }
}

/// Whether a writer has the live file open or was killed having it open: the superblock says so, or
/// the writer's lock, which stays while HDF5 closes the file and until the run's last word is in.
/// False is final; asked before a file is read, it says that all of it will be found.
bool may_change(const std::string& path);
/// An existing file, read-only, also while a SWMR writer has it open. Throws Error{io} if it cannot
/// be read and Error{corrupt_file} if it is no whole HDF5 file.
Handle open_file(const std::string& path);
/// A new file in the 1.10 format, truncating what was there. `live`: laid out so that its
/// structures survive a killed writer, at a page each.
Handle create_file(const std::string& path, bool live = false);

/// The type as it lies on disk.
Handle disk_type(ElementType type);
/// The closest ElementType of a stored type. Throws Error{corrupt_file} for what kvscope never
/// writes.
ElementType element_type(hid_t type, const std::string& object);
std::size_t element_bytes(ElementType type);
const char* element_name(ElementType type);

bool exists(hid_t file, const std::string& path);
Handle open_dataset(hid_t file, const std::string& path);
Extent extent(hid_t dataset, const std::string& path);
/// Paths of every dataset, sorted.
std::vector<std::string> list_datasets(hid_t file);

std::uint16_t to_f16(float value);   ///< likewise
std::uint16_t to_bf16(float value);  ///< round to nearest even; NaN stays NaN

/// What `create_dataset` needs besides a DatasetSpec.
struct CreateOptions {
  bool grows = false;     ///< first axis may be extended or shrunk
  bool compress = false;  ///< shuffle + gzip
  int level = 1;          ///< of gzip
};
Handle create_dataset(hid_t file, const DatasetSpec& spec, CreateOptions options);

/// Names of a dataset's axes, "" where it has none. From the attribute `axes`, not from
/// DIMENSION_LABELS: those are strings of variable length, on which HDF5 1.10 crashes if damaged.
std::vector<std::string> axis_names(hid_t dataset, std::size_t rank);

/// Throws Error{corrupt_file} unless the file holds as many bytes of the dataset as its shape
/// claims.
void require_written(hid_t dataset, ElementType type, const Extent& extent,
                     const std::string& path);
/// The first `rows` of a table of one column, which may hold more.
std::vector<std::int32_t> first_rows(hid_t file, const char* name, std::int64_t rows);
/// Reads a dataset of any size in boxes of at most a few MiB, as float32.
void read_boxes(hid_t dataset, const std::string& path,
                const std::function<void(std::span<const float>)>& visit);

/// Whole-dataset writes used by the batch files.
void write_all(hid_t dataset, const std::string& path, hid_t memory_type, const void* values);
template <typename T>
hid_t native();
template <>
inline hid_t native<float>() {
  return H5T_NATIVE_FLOAT;
}
template <>
inline hid_t native<double>() {
  return H5T_NATIVE_DOUBLE;
}
template <>
inline hid_t native<std::int32_t>() {
  return H5T_NATIVE_INT32;
}
template <>
inline hid_t native<std::int64_t>() {
  return H5T_NATIVE_INT64;
}
template <>
inline hid_t native<std::uint8_t>() {
  return H5T_NATIVE_UINT8;
}
template <>
inline hid_t native<std::uint32_t>() {
  return H5T_NATIVE_UINT32;
}
template <>
inline hid_t native<std::uint64_t>() {
  return H5T_NATIVE_UINT64;
}

/// Creates and fills a dataset of the spec's shape. Throws unless sizes agree.
template <typename T>
Handle store(hid_t file, const DatasetSpec& spec, const std::vector<T>& values,
             CreateOptions options = {});
/// Reads a whole dataset. Throws Error{corrupt_file} if its shape is not `expected`, or if it
/// claims more bytes than the file holds of it; before any memory is taken.
template <typename T>
std::vector<T> load(hid_t file, const std::string& path, const Extent& expected);

std::int64_t elements(const Extent& extent);
std::string extent_text(const Extent& extent);

}  // namespace kvscope::h5
