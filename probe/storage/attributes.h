#pragma once

#include <hdf5.h>

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope::h5 {

/// Attributes of a dataset, or of the root group (pass the file). Texts are fixed-length strings,
/// which every reader takes; setting one again replaces it.
void set_text(hid_t object, const std::string& name, const std::string& text);
void set_number(hid_t object, const std::string& name, std::int64_t value);
void set_real(hid_t object, const std::string& name, double value);
/// An empty list writes nothing.
void set_reals(hid_t object, const std::string& name, const std::vector<double>& values);

/// Empty / `otherwise` if absent. Throw Error{corrupt_file} if of another kind or larger than 16
/// MiB.
std::string get_text(hid_t object, const std::string& name);
std::int64_t get_number(hid_t object, const std::string& name, std::int64_t otherwise);
double get_real(hid_t object, const std::string& name, double otherwise);
std::vector<double> get_reals(hid_t object, const std::string& name);

/// Root attributes every file of ours carries.
void set_format(hid_t file, const std::string& format);
/// Throws Error{corrupt_file} if `format` is another, Error{unsupported} if the major version is
/// newer.
void check_format(hid_t file, const std::string& format, const std::string& path);

inline constexpr int version_major = 1;
inline constexpr int version_minor = 0;

}  // namespace kvscope::h5
