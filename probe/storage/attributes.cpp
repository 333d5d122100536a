#include "attributes.h"

#include <fmt/format.h>

#include <algorithm>

#include "h5.h"

namespace kvscope::h5 {
namespace {

constexpr std::size_t largest_attribute = std::size_t{16} << 20;

void write_attribute(hid_t object, const std::string& name, hid_t stored, hid_t memory, hid_t space,
                     const void* value) {
  const Session session;
  if (H5Aexists(object, name.c_str()) > 0) {
    H5Adelete(object, name.c_str());
  }
  const Handle attribute(H5Acreate2(object, name.c_str(), stored, space, H5P_DEFAULT, H5P_DEFAULT),
                         H5Aclose);
  require(attribute && H5Awrite(attribute, memory, value) >= 0, ErrorCode::io,
          "the attribute cannot be written", name);
}

Handle open_attribute(hid_t object, const std::string& name) {
  if (H5Aexists(object, name.c_str()) <= 0) {
    H5Eclear2(H5E_DEFAULT);
    return {};
  }
  Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose);
  require(static_cast<bool>(attribute), ErrorCode::corrupt_file, "the attribute cannot be opened",
          name);
  return attribute;
}

/// Elements of an attribute's space, checked.
std::size_t points(const Handle& attribute, const std::string& name) {
  const Handle space(H5Aget_space(attribute), H5Sclose);
  const hssize_t count = space ? H5Sget_simple_extent_npoints(space) : -1;
  KVSCOPE_CHECK(count >= 0 && count <= static_cast<hssize_t>(largest_attribute / 8),
                ErrorCode::corrupt_file, "the attribute has an impossible size", name);
  return static_cast<std::size_t>(count);
}

template <typename T>
std::vector<T> read_numbers(hid_t object, const std::string& name, bool& found) {
  const Session session;
  const Handle attribute = open_attribute(object, name);
  found = static_cast<bool>(attribute);
  if (!found) {
    return {};
  }
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const H5T_class_t kind = H5Tget_class(type);
  KVSCOPE_CHECK(kind == H5T_INTEGER || kind == H5T_FLOAT, ErrorCode::corrupt_file,
                "the attribute is not a number", name);
  std::vector<T> values(points(attribute, name));
  if (!values.empty()) {
    require(H5Aread(attribute, native<T>(), values.data()) >= 0, ErrorCode::corrupt_file,
            "the attribute cannot be read", name);
  }
  return values;
}

}  // namespace

void set_text(hid_t object, const std::string& name, const std::string& text) {
  const Session session;
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, std::max<std::size_t>(1, text.size()));
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
  H5Tset_cset(type, ascii ? H5T_CSET_ASCII : H5T_CSET_UTF8);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const std::string padded = text.empty() ? std::string(1, '\0') : text;
  write_attribute(object, name, type, type, space, padded.data());
}

void set_number(hid_t object, const std::string& name, std::int64_t value) {
  const Session session;
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  write_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, space, &value);
}

void set_real(hid_t object, const std::string& name, double value) {
  const Session session;
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  write_attribute(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, space, &value);
}

void set_reals(hid_t object, const std::string& name, const std::vector<double>& values) {
  if (values.empty()) {
    return;  // read back as empty
  }
  const Session session;
  const hsize_t count = values.size();
  const Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  write_attribute(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, space, values.data());
}

std::string get_text(hid_t object, const std::string& name) {
  const Session session;
  const Handle attribute = open_attribute(object, name);
  if (!attribute) {
    return {};
  }
  const Handle type(H5Aget_type(attribute), H5Tclose);
  KVSCOPE_CHECK(H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
                    points(attribute, name) == 1,
                ErrorCode::corrupt_file, "the attribute is not a fixed-length string", name);
  const std::size_t size = H5Tget_size(type);
  KVSCOPE_CHECK(size <= largest_attribute, ErrorCode::corrupt_file,
                "the attribute has an impossible size", name);
  std::string text(size, '\0');
  require(H5Aread(attribute, type, text.data()) >= 0, ErrorCode::corrupt_file,
          "the attribute cannot be read", name);
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

std::int64_t get_number(hid_t object, const std::string& name, std::int64_t otherwise) {
  bool found = false;
  const auto values = read_numbers<std::int64_t>(object, name, found);
  return values.empty() ? otherwise : values.front();
}

double get_real(hid_t object, const std::string& name, double otherwise) {
  bool found = false;
  const auto values = read_numbers<double>(object, name, found);
  return values.empty() ? otherwise : values.front();
}

std::vector<double> get_reals(hid_t object, const std::string& name) {
  bool found = false;
  return read_numbers<double>(object, name, found);
}

void set_format(hid_t file, const std::string& format) {
  set_text(file, "format", format);
  set_number(file, "version_major", version_major);
  set_number(file, "version_minor", version_minor);
  set_text(file, "hdf5", fmt::format("{}.{}.{}", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE));
}

void check_format(hid_t file, const std::string& format, const std::string& path) {
  const std::string found = get_text(file, "format");
  KVSCOPE_CHECK(found == format, ErrorCode::corrupt_file,
                found.empty() ? fmt::format("this HDF5 file is no {}", format)
                              : fmt::format("this file is a {}, not a {}", found, format),
                path, "`kvscope inspect FILE` shows what a file is");
  const std::int64_t major = get_number(file, "version_major", 0);
  KVSCOPE_CHECK(
      major <= version_major, ErrorCode::unsupported,
      fmt::format("format version {} is newer than this kvscope reads ({})", major, version_major),
      path, "use a newer kvscope");
  KVSCOPE_CHECK(major >= 1, ErrorCode::corrupt_file, "the format version is missing", path);
}

}  // namespace kvscope::h5
