#include <hdf5.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "../storage/sample_files.h"
#include "fuzz_targets.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/spectrum_file.h"

// HDF5 1.10 has crashes of its own on damaged files, which would end every run of a fuzzer after
// seconds; kvscope reads such files in a child process (viewer/cli/isolated.h). What is fuzzed here
// is our reading: well-formed HDF5 whose objects, sizes, types and values are hostile.

namespace kvscope::fuzz {
namespace {

/// The input, read from the front; zeros after its end.
class Script {
 public:
  explicit Script(std::span<const std::uint8_t> bytes) : left_(bytes) {}
  bool empty() const { return left_.empty(); }
  template <typename T>
  T next() {
    T value{};
    const std::size_t size = std::min(sizeof(T), left_.size());
    std::memcpy(&value, left_.data(), size);
    left_ = left_.subspan(size);
    return value;
  }

 private:
  std::span<const std::uint8_t> left_;
};

/// One of our files of each kind, as bytes.
const std::vector<std::string>& originals() {
  static const std::vector<std::string> files = [] {
    const test::Folder folder;
    test::write_sample_capture(folder / "x.capture.h5");
    write_decision(folder / "x.decision.h5", test::sample_decision());
    write_spectrum(folder / "x.spectrum.h5", test::sample_spectrum());
    return std::vector<std::string>{test::read_bytes(folder / "x.capture.h5"),
                                    test::read_bytes(folder / "x.decision.h5"),
                                    test::read_bytes(folder / "x.spectrum.h5")};
  }();
  return files;
}

std::vector<std::string> names_of(hid_t file) {
  std::vector<std::string> names = {"."};
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* all) -> herr_t {
    static_cast<std::vector<std::string>*>(all)->push_back(name);
    return 0;
  };
  H5Lvisit(file, H5_INDEX_NAME, H5_ITER_INC, add, &names);
  return names;
}

bool has_pointers(hid_t type) {
  return H5Tdetect_class(type, H5T_VLEN) > 0 || H5Tis_variable_str(type) > 0 ||
         H5Tdetect_class(type, H5T_REFERENCE) > 0;
}

/// Puts `value` over the bytes at `at` (wrapping around) of what `read` gives and `write` takes.
template <typename Read, typename Write>
void overwrite(hid_t space, hid_t type, std::uint16_t at, std::uint64_t value, Read read,
               Write write) {
  const hssize_t count = H5Sget_simple_extent_npoints(space);
  if (count <= 0 || count > 100000 || has_pointers(type)) {
    return;
  }
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count) * H5Tget_size(type));
  read(bytes.data());
  const std::size_t width = std::min<std::size_t>({H5Tget_size(type), 8, bytes.size()});
  const std::size_t first = at % (bytes.size() - width + 1);
  std::memcpy(bytes.data() + first / width * width, &value, width);
  write(bytes.data());
}

void change_dataset(hid_t file, const std::string& name, Script& script) {
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  if (dataset < 0) {
    return;  // a group
  }
  const hid_t space = H5Dget_space(dataset);
  const hid_t type = H5Dget_type(dataset);
  const auto at = script.next<std::uint16_t>();
  overwrite(
      space, type, at, script.next<std::uint64_t>(),
      [&](void* to) { H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, to); },
      [&](const void* from) { H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, from); });
  H5Tclose(type);
  H5Sclose(space);
  H5Dclose(dataset);
}

std::array<hid_t, 6> types() {
  return {H5T_STD_I32LE, H5T_IEEE_F32LE, H5T_IEEE_F64LE,
          H5T_STD_U8LE,  H5T_STD_I64LE,  H5T_STD_B16BE};
}

/// An empty dataset of another shape and type in the place of one.
void replace_dataset(hid_t file, const std::string& name, Script& script) {
  const auto choice = script.next<std::uint8_t>();
  std::vector<hsize_t> shape(choice / 8 % 5);
  for (hsize_t& extent : shape) {
    const auto size = script.next<std::uint16_t>();
    extent = hsize_t{size & 1023u} << std::min(size >> 10, 36);
  }
  if (name == "." || H5Ldelete(file, name.c_str(), H5P_DEFAULT) < 0) {
    return;
  }
  const hid_t plan = H5Pcreate(H5P_DATASET_CREATE);
  const std::vector<hsize_t> chunk(shape.size(), 1);
  if (!shape.empty()) {
    H5Pset_chunk(plan, static_cast<int>(chunk.size()), chunk.data());
  }
  const hid_t space = shape.empty()
                          ? H5Screate(H5S_SCALAR)
                          : H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  if (space >= 0) {
    const hid_t made =
        H5Dcreate2(file, name.c_str(), types()[choice % 6u], space, H5P_DEFAULT, plan, H5P_DEFAULT);
    if (made >= 0) {
      H5Dclose(made);
    }
    H5Sclose(space);
  }
  H5Pclose(plan);
}

/// Overwrites, deletes or replaces one attribute of an object.
void change_attribute(hid_t file, const std::string& name, int what, Script& script) {
  const hid_t object = H5Oopen(file, name.c_str(), H5P_DEFAULT);
  if (object < 0) {
    return;
  }
  H5O_info_t info;
  H5Oget_info2(object, &info, H5O_INFO_NUM_ATTRS);
  if (info.num_attrs > 0) {
    const hsize_t which = script.next<std::uint8_t>() % info.num_attrs;
    std::array<char, 64> label{};
    const hid_t attribute =
        H5Aopen_by_idx(object, ".", H5_INDEX_NAME, H5_ITER_INC, which, H5P_DEFAULT, H5P_DEFAULT);
    H5Aget_name(attribute, label.size(), label.data());
    const hid_t space = H5Aget_space(attribute);
    const hid_t type = H5Aget_type(attribute);
    if (what == 0) {
      const auto at = script.next<std::uint16_t>();
      overwrite(
          space, type, at, script.next<std::uint64_t>(),
          [&](void* to) { H5Aread(attribute, type, to); },
          [&](const void* from) { H5Awrite(attribute, type, from); });
    }
    H5Tclose(type);
    H5Sclose(space);
    H5Aclose(attribute);
    if (what > 0) {
      H5Adelete(object, label.data());
    }
    if (what > 1) {
      const hsize_t count = script.next<std::uint8_t>();
      const hid_t other = H5Screate_simple(1, &count, nullptr);
      const hid_t made =
          H5Acreate2(object, label.data(), types()[count % 6u], other, H5P_DEFAULT, H5P_DEFAULT);
      if (made >= 0) {
        H5Aclose(made);
      }
      H5Sclose(other);
    }
  }
  H5Oclose(object);
}

void spoil(const std::string& path, Script script) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  for (int edit = 0; edit < 16 && !script.empty(); ++edit) {
    const auto action = script.next<std::uint8_t>();
    const std::vector<std::string> names = names_of(file);
    const std::string& name = names[script.next<std::uint8_t>() % names.size()];
    switch (action % 6) {
      case 0:
        change_dataset(file, name, script);
        break;
      case 1:
        replace_dataset(file, name, script);
        break;
      case 2:
        H5Ldelete(file, name.c_str(), H5P_DEFAULT);
        break;
      default:
        change_attribute(file, name, action % 6 - 3, script);
    }
  }
  H5Fclose(file);
}

}  // namespace

void hdf5(std::span<const std::uint8_t> bytes) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  Script script(bytes);
  const std::string& original = originals()[script.next<std::uint8_t>() % originals().size()];
  const MemoryFile memory(
      {reinterpret_cast<const std::uint8_t*>(original.data()), original.size()});
  spoil(memory.path(), script);
  try {
    check_file(memory.path());
    describe_datasets(memory.path());
  } catch (const Error&) {
    // the reader said what is wrong
  }
}

}  // namespace kvscope::fuzz
