#include "h5.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hdf5_hl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>

#include "attributes.h"
#include "kvscope/storage/capture_state.h"

namespace kvscope::h5 {
namespace {

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

herr_t collect_reason(unsigned, const H5E_error2_t* entry, void* text) {
  auto& reason = *static_cast<std::string*>(text);
  const std::string part = entry->desc == nullptr ? "" : entry->desc;
  if (reason.empty() || part.find("errno") != std::string::npos) {
    reason = part;
  }
  return 0;
}

herr_t collect_dataset(hid_t, const char* name, const H5O_info_t* info, void* list) {
  if (info->type == H5O_TYPE_DATASET) {
    static_cast<std::vector<std::string>*>(list)->emplace_back(name);
  }
  return 0;
}

void set_fill(hid_t properties, ElementType type) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::int32_t none = -1;
  switch (type) {
    case ElementType::f4:
    case ElementType::f8:
      H5Pset_fill_value(properties, H5T_NATIVE_FLOAT, &nan);
      break;
    case ElementType::f2:
    case ElementType::bf16: {
      const Handle stored = disk_type(type);
      const std::uint16_t bits = type == ElementType::f2 ? 0x7E00 : 0x7FC0;
      H5Pset_fill_value(properties, stored, &bits);
      break;
    }
    case ElementType::i4:
    case ElementType::i8:
      H5Pset_fill_value(properties, H5T_NATIVE_INT32, &none);
      break;
    case ElementType::u1:
    case ElementType::u8:
      break;
  }
}

}  // namespace

Session::Session() : lock_(library_mutex()) {
  // At exit the library would flush files it could not write (a full disk) again, and crash.
  static const herr_t no_exit_handler = H5dont_atexit();
  static_cast<void>(no_exit_handler);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // the setting belongs to a thread
}

Handle& Handle::operator=(Handle&& other) noexcept {
  if (this != &other) {
    reset();
    id_ = std::exchange(other.id_, H5I_INVALID_HID);
    close_ = other.close_;
  }
  return *this;
}

bool Handle::reset() noexcept {
  const hid_t id = std::exchange(id_, H5I_INVALID_HID);
  return id < 0 || close_(id) >= 0;
}

void fail(ErrorCode code, const std::string& what, const std::string& object) {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect_reason, &reason);
  H5Eclear2(H5E_DEFAULT);
  const bool system = reason.find("errno") != std::string::npos;
  const bool full = reason.find("errno = 28") != std::string::npos ||
                    reason.find("errno = 27") != std::string::npos ||
                    reason.find("errno = 122") != std::string::npos;
  if (full) {
    throw Error(ErrorCode::io, "the disk (or the quota) is full", object,
                "free some space, or choose a smaller --profile or fewer --layers");
  }
  if (reason.find("unable to lock") != std::string::npos) {
    throw Error(ErrorCode::io, fmt::format("the file cannot be locked (HDF5: {})", reason), object,
                "another program may have it open for writing; where the file system has no locks, "
                "set HDF5_USE_FILE_LOCKING=FALSE in the environment");
  }
  throw Error(system ? ErrorCode::io : code,
              reason.empty() ? what : fmt::format("{} (HDF5: {})", what, reason), object);
}

bool may_change(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<unsigned char, 12> head{};
  file.read(reinterpret_cast<char*>(head.data()), head.size());
  constexpr unsigned char live_writer = 0x04;
  const bool marked = file.gcount() == 12 && head[8] >= 2 && (head[11] & live_writer) != 0;
  return marked || being_written(path);
}

Handle open_file(const std::string& path) {
  const Session session;
  std::error_code failure;
  KVSCOPE_CHECK(std::filesystem::exists(path, failure), ErrorCode::io, "there is no such file",
                path, "check the name");
  KVSCOPE_CHECK(std::filesystem::is_regular_file(path, failure), ErrorCode::io,
                "this is not a regular file", path, "name a file");
  const htri_t known = H5Fis_hdf5(path.c_str());
  H5Eclear2(H5E_DEFAULT);
  KVSCOPE_CHECK(known > 0, ErrorCode::corrupt_file, "this is not an HDF5 file", path,
                "give a file that kvscope wrote");
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  Handle file;
  // While HDF5 closes a live file, it is not marked any more and not yet of the length it claims;
  // nobody can open it then. 250 attempts are half a second.
  for (int attempts = 250; attempts > 0; --attempts) {
    const bool closing = being_written(path);
    // Never SWMR for other files: it also opens what was cut short. A reader beside a writer tries
    // again when a checksum is wrong, after 1, 2, 4, ... ns. The default of 100 attempts would
    // never end on a damaged file; these end after 33 ms.
    const unsigned live = may_change(path) ? H5F_ACC_SWMR_READ : 0u;
    H5Pset_metadata_read_attempts(access, live != 0 ? 24 : 1);
    file = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY | live, access), H5Fclose);
    if (file || !closing) {
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  require(static_cast<bool>(file), ErrorCode::corrupt_file,
          "the file cannot be opened: it is truncated or damaged", path);
  return file;
}

Handle create_file(const std::string& path, bool live) {
  const Session session;
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  if (live) {
    // The kernel can end a write of a killed process between two pages, never inside one. Blocks
    // that begin with a page and are no longer than one are therefore whole or untouched.
    constexpr hsize_t page = 4096;
    H5Pset_alignment(access, 1, page);
    H5Pset_meta_block_size(access, 0);
    H5Pset_small_data_block_size(access, 0);
  }
  Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose);
  require(static_cast<bool>(file), ErrorCode::io, "cannot create the file", path);
  return file;
}

bool exists(hid_t file, const std::string& path) {
  const Session session;
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    if (H5Lexists(file, path.substr(0, end).c_str(), H5P_DEFAULT) <= 0) {
      H5Eclear2(H5E_DEFAULT);
      return false;
    }
    if (end == std::string::npos) {
      return true;
    }
  }
}

Handle open_dataset(hid_t file, const std::string& path) {
  const Session session;
  KVSCOPE_CHECK(exists(file, path), ErrorCode::missing_data, "the file has no such dataset",
                "/" + path);
  Handle dataset(H5Dopen2(file, path.c_str(), H5P_DEFAULT), H5Dclose);
  require(static_cast<bool>(dataset), ErrorCode::corrupt_file, "the dataset cannot be opened",
          "/" + path);
  return dataset;
}

Extent extent(hid_t dataset, const std::string& path) {
  const Session session;
  const Handle space(H5Dget_space(dataset), H5Sclose);
  const int rank = space ? H5Sget_simple_extent_ndims(space) : -1;
  require(rank >= 0 && rank <= 8, ErrorCode::corrupt_file, "the dataset has no readable shape",
          "/" + path);
  std::vector<hsize_t> dims(static_cast<std::size_t>(rank));
  require(rank == 0 || H5Sget_simple_extent_dims(space, dims.data(), nullptr) == rank,
          ErrorCode::corrupt_file, "the dataset has no readable shape", "/" + path);
  Extent result;
  std::int64_t product = 1;
  for (const hsize_t dim : dims) {
    KVSCOPE_CHECK(
        dim < (hsize_t{1} << 40) &&
            (dim == 0 || product <= (std::int64_t{1} << 46) / static_cast<std::int64_t>(dim)),
        ErrorCode::corrupt_file, "the dataset claims an impossible size", "/" + path);
    product *= static_cast<std::int64_t>(std::max<hsize_t>(dim, 1));
    result.push_back(static_cast<std::int64_t>(dim));
  }
  return result;
}

std::vector<std::string> list_datasets(hid_t file) {
  const Session session;
  std::vector<std::string> names;
  require(H5Ovisit(file, H5_INDEX_NAME, H5_ITER_NATIVE, collect_dataset, &names) >= 0,
          ErrorCode::corrupt_file, "the list of datasets cannot be read", "/");
  std::sort(names.begin(), names.end());
  return names;
}

Handle create_dataset(hid_t file, const DatasetSpec& spec, CreateOptions options) {
  const Session session;
  const std::string object = "/" + spec.path;
  std::vector<hsize_t> dims(spec.shape.begin(), spec.shape.end());
  std::vector<hsize_t> limits = dims;
  Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const bool empty = elements(spec.shape) == 0;
  if (options.grows || (!spec.chunk.empty() && !empty)) {
    std::vector<hsize_t> chunk(dims.size(), 1);
    for (std::size_t axis = 0; axis < dims.size(); ++axis) {
      const hsize_t wanted =
          axis < spec.chunk.size() ? static_cast<hsize_t>(spec.chunk[axis]) : dims[axis];
      const hsize_t limit = options.grows && axis == 0 ? wanted : dims[axis];
      chunk[axis] = std::max<hsize_t>(1, std::min(wanted, limit));
    }
    if (options.grows) {
      limits[0] = H5S_UNLIMITED;
    }
    H5Pset_chunk(properties, static_cast<int>(chunk.size()), chunk.data());
    if (options.compress) {
      H5Pset_shuffle(properties);
      H5Pset_deflate(properties, static_cast<unsigned>(options.level));
    }
  }
  set_fill(properties, spec.type);
  Handle space(dims.empty()
                   ? H5Screate(H5S_SCALAR)
                   : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), limits.data()),
               H5Sclose);
  const Handle type = disk_type(spec.type);
  Handle dataset(H5Dcreate2(file, spec.path.c_str(), type, space, links, properties, H5P_DEFAULT),
                 H5Dclose);
  require(static_cast<bool>(dataset), ErrorCode::failed, "the dataset cannot be created", object);
  const std::pair<const char*, const std::string&> texts[] = {
      {"units", spec.units},     {"long_name", spec.long_name},       {"formula", spec.formula},
      {"queries", spec.queries}, {"group_reduce", spec.group_reduce}, {"kernel", spec.kernel}};
  for (const auto& [name, text] : texts) {
    if (!text.empty()) {
      set_text(dataset, name, text);
    }
  }
  for (const auto& [name, number] : spec.numbers) {
    set_number(dataset, name, number);
  }
  if (!spec.labels.empty()) {
    set_text(dataset, "axes", fmt::format("{}", fmt::join(spec.labels, ",")));
  }
  for (std::size_t axis = 0; axis < spec.labels.size() && axis < dims.size(); ++axis) {
    H5DSset_label(dataset, static_cast<unsigned>(axis), spec.labels[axis].c_str());
  }
  return dataset;
}

std::vector<std::string> axis_names(hid_t dataset, std::size_t rank) {
  const std::string text = get_text(dataset, "axes");
  std::vector<std::string> names(rank);
  std::size_t begin = 0;
  for (std::size_t axis = 0; axis < rank && begin < text.size(); ++axis) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    names[axis] = text.substr(begin, end - begin);
    begin = end + 1;
  }
  return names;
}

void write_all(hid_t dataset, const std::string& path, hid_t memory_type, const void* values) {
  const Session session;
  require(H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, ErrorCode::io,
          "the dataset cannot be written", "/" + path);
}

template <typename T>
Handle store(hid_t file, const DatasetSpec& spec, const std::vector<T>& values,
             CreateOptions options) {
  const Session session;
  KVSCOPE_CHECK(elements(spec.shape) == static_cast<std::int64_t>(values.size()), ErrorCode::failed,
                fmt::format("{} values for shape {}", values.size(), extent_text(spec.shape)),
                "/" + spec.path);
  Handle dataset = create_dataset(file, spec, options);
  if (!values.empty()) {
    write_all(dataset, spec.path, native<T>(), values.data());
  }
  return dataset;
}

template <typename T>
std::vector<T> load(hid_t file, const std::string& path, const Extent& expected) {
  const Session session;
  const Handle dataset = open_dataset(file, path);
  const Extent found = extent(dataset, path);
  KVSCOPE_CHECK(found == expected, ErrorCode::corrupt_file,
                fmt::format("shape {} where the file's own sizes ask for {}", extent_text(found),
                            extent_text(expected)),
                "/" + path);
  const Handle type(H5Dget_type(dataset), H5Tclose);
  require_written(dataset, element_type(type, "/" + path), found, path);
  std::vector<T> values(static_cast<std::size_t>(elements(found)));
  if (!values.empty()) {
    require(H5Dread(dataset, native<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) >= 0,
            ErrorCode::corrupt_file, "the dataset cannot be read", "/" + path);
  }
  return values;
}

template Handle store(hid_t, const DatasetSpec&, const std::vector<float>&, CreateOptions);
template Handle store(hid_t, const DatasetSpec&, const std::vector<double>&, CreateOptions);
template Handle store(hid_t, const DatasetSpec&, const std::vector<std::int32_t>&, CreateOptions);
template Handle store(hid_t, const DatasetSpec&, const std::vector<std::int64_t>&, CreateOptions);
template Handle store(hid_t, const DatasetSpec&, const std::vector<std::uint8_t>&, CreateOptions);
template Handle store(hid_t, const DatasetSpec&, const std::vector<std::uint64_t>&, CreateOptions);
template std::vector<float> load(hid_t, const std::string&, const Extent&);
template std::vector<double> load(hid_t, const std::string&, const Extent&);
template std::vector<std::int32_t> load(hid_t, const std::string&, const Extent&);
template std::vector<std::int64_t> load(hid_t, const std::string&, const Extent&);
template std::vector<std::uint8_t> load(hid_t, const std::string&, const Extent&);
template std::vector<std::uint64_t> load(hid_t, const std::string&, const Extent&);

std::int64_t elements(const Extent& extent) {
  std::int64_t product = 1;
  for (const std::int64_t dim : extent) {
    product *= dim;
  }
  return product;
}

std::string extent_text(const Extent& extent) {
  return fmt::format("[{}]", fmt::join(extent, ", "));
}

}  // namespace kvscope::h5
