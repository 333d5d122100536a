#include "kvscope/storage/spectrum_file.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <hdf5_hl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "attributes.h"
#include "h5.h"
#include "spectrum_extras.h"
#include "temporary_file.h"

namespace kvscope {
namespace {

using h5::Extent;
using h5::Handle;
using h5::Session;

constexpr const char* groups[] = {"spectrum/",    "metrics/", "asymmetry/", "alignment/",
                                  "homogeneity/", "merging/", "timing/"};

bool is_table(const std::string& path) {
  return std::any_of(std::begin(groups), std::end(groups),
                     [&](const char* group) { return path.starts_with(group); });
}

/// Tables of counts are whole numbers on disk; -1 = missing.
bool holds_counts(const std::string& path) {
  return path.ends_with("energy_rank") || path.ends_with("mode_block");
}

ElementType type_of(const std::string& path) {
  if (holds_counts(path)) {
    return ElementType::i4;
  }
  if (path.ends_with("cos_adj_hist")) {
    return ElementType::u8;
  }
  const bool single = path.ends_with("left_vectors") || path.ends_with("cos_adj_quantiles") ||
                      path.starts_with("timing/");
  return single ? ElementType::f4 : ElementType::f8;
}

/// Attaches the scales of the axes that have one.
void attach_scales(hid_t file, hid_t dataset, const std::vector<std::string>& axes) {
  for (std::size_t axis = 0; axis < axes.size(); ++axis) {
    const std::string scale = "axes/" + axes[axis];
    if (h5::exists(file, scale)) {
      H5DSattach_scale(dataset, h5::open_dataset(file, scale), static_cast<unsigned>(axis));
    }
  }
}

void write_table(hid_t file, const std::string& path, const SpectrumTable& table) {
  DatasetSpec spec;
  spec.path = path;
  spec.type = type_of(path);
  spec.shape.assign(table.shape.begin(), table.shape.end());
  spec.chunk = spec.shape;
  if (!spec.chunk.empty()) {
    spec.chunk[0] = 1;  // one layer
  }
  spec.labels = table.axes;
  spec.units = table.units;
  spec.long_name = table.long_name;
  spec.formula = table.formula;
  const h5::CreateOptions options{.grows = false, .compress = true, .level = 4};
  Handle dataset;
  if (spec.type == ElementType::i4) {
    std::vector<std::int32_t> counts;
    for (const double value : table.values) {
      counts.push_back(std::isfinite(value) ? static_cast<std::int32_t>(value) : -1);
    }
    dataset = h5::store(file, spec, counts, options);
  } else if (spec.type == ElementType::u8) {
    std::vector<std::uint64_t> counts;
    for (const double value : table.values) {
      counts.push_back(value > 0 ? static_cast<std::uint64_t>(value) : 0);
    }
    dataset = h5::store(file, spec, counts, options);
  } else {
    dataset = h5::store(file, spec, table.values, options);
  }
  attach_scales(file, dataset, table.axes);
}

SpectrumTable read_table(hid_t file, const std::string& path) {
  const Handle dataset = h5::open_dataset(file, path);
  const Extent extent = h5::extent(dataset, path);
  KVSCOPE_CHECK(h5::elements(extent) <= (std::int64_t{1} << 32), ErrorCode::corrupt_file,
                "the table claims an impossible size", "/" + path);
  SpectrumTable table;
  table.shape.assign(extent.begin(), extent.end());
  table.values = h5::load<double>(file, path, extent);
  if (holds_counts(path)) {
    std::replace(table.values.begin(), table.values.end(), -1.0, std::nan(""));
  }
  table.units = h5::get_text(dataset, "units");
  table.long_name = h5::get_text(dataset, "long_name");
  table.formula = h5::get_text(dataset, "formula");
  table.axes = h5::axis_names(dataset, extent.size());
  return table;
}

std::string joined(const std::vector<std::string>& lines, char separator) {
  std::string text;
  for (std::size_t line = 0; line < lines.size(); ++line) {
    text += line == 0 ? "" : std::string(1, separator);
    for (const char character : lines[line]) {
      text += character == separator ? ' ' : character;
    }
  }
  return text;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts = {""};
  for (const char character : text) {
    if (character == separator) {
      parts.emplace_back();
    } else {
      parts.back() += character;
    }
  }
  return parts;
}

void write_status(hid_t file, const Spectrum& spectrum) {
  const Extent shape = {static_cast<std::int64_t>(spectrum.layers.size()),
                        static_cast<std::int64_t>(spectrum.projections.size())};
  DatasetSpec spec;
  spec.path = "status/code";
  spec.type = ElementType::u1;
  spec.shape = shape;
  spec.labels = {"layer", "proj"};
  spec.long_name =
      "0 ok, 1 missing, 2 nonfinite, 3 zero, 4 neg_eig, 5 no_convergence, 6 unsupported_dtype, 7 "
      "bad_shape, 8 skipped_by_user";
  std::vector<std::uint8_t> codes;
  for (const SpectrumStatus status : spectrum.status) {
    codes.push_back(static_cast<std::uint8_t>(status));
  }
  h5::store(file, spec, codes);
  h5::store_texts(file, "status/message", shape, spectrum.message);
}

int size_attribute(hid_t file, const char* name, const std::string& path) {
  const std::int64_t value = h5::get_number(file, name, -1);
  KVSCOPE_CHECK(value >= 0 && value < (1 << 24), ErrorCode::corrupt_file,
                fmt::format("{} is {}", name, value), path);
  return static_cast<int>(value);
}

void read_status(hid_t file, Spectrum& spectrum, const std::string& path) {
  const Extent shape = {static_cast<std::int64_t>(spectrum.layers.size()),
                        static_cast<std::int64_t>(spectrum.projections.size())};
  for (const std::uint8_t code : h5::load<std::uint8_t>(file, "status/code", shape)) {
    KVSCOPE_CHECK(code <= static_cast<std::uint8_t>(SpectrumStatus::skipped_by_user),
                  ErrorCode::corrupt_file, fmt::format("unknown status {}", code),
                  path + ", /status/code");
    spectrum.status.push_back(static_cast<SpectrumStatus>(code));
  }
  if (h5::exists(file, "status/message")) {
    spectrum.message = h5::load_texts(file, "status/message", spectrum.status.size());
    return;
  }
  // Version 1.0 of kvscope 0.1: one line for each matrix.
  const std::string name = "status/message_bytes";
  const Extent extent = h5::extent(h5::open_dataset(file, name), name);
  const auto bytes = h5::load<std::uint8_t>(file, name, extent);
  spectrum.message = split({bytes.begin(), bytes.end()}, '\n');
  spectrum.message.resize(spectrum.status.size());
}

/// Axes with a scale: true layer indices, names of projections, heads.
void write_axes(hid_t file, const Spectrum& spectrum) {
  const auto numbers = [&](const std::string& name, const std::vector<std::int32_t>& values) {
    DatasetSpec axis;
    axis.path = "axes/" + name;
    axis.type = ElementType::i4;
    axis.shape = {static_cast<std::int64_t>(values.size())};
    H5DSset_scale(h5::store(file, axis, values), name.c_str());
  };
  numbers("layer", {spectrum.layers.begin(), spectrum.layers.end()});
  for (const auto& [name, count] :
       {std::pair("q_head", spectrum.query_heads), std::pair("kv_head", spectrum.kv_heads)}) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), 0);
    numbers(name, values);
  }
  h5::store_texts(file, "axes/proj", {static_cast<std::int64_t>(spectrum.projections.size())},
                  spectrum.projections);
  H5DSset_scale(h5::open_dataset(file, "axes/proj"), "proj");
}

/// Root attributes: sizes under our names and those of the schema, then what the analysis added.
void write_root(hid_t file, const Spectrum& s) {
  h5::set_format(file, "kvscope.spectrum");
  h5::set_text(file, "schema", "kv-spectral");
  h5::set_text(file, "schema_version", "1.0");
  h5::set_text(file, "model", s.model_name);
  h5::set_text(file, "model_hash", s.model_hash);
  h5::set_text(file, "weights_dtype", s.weights_dtype);
  h5::set_text(file, "stored_dtype", s.weights_dtype);
  const std::pair<const char*, int> sizes[] = {
      {"query_heads", s.query_heads}, {"n_heads", s.query_heads}, {"kv_heads", s.kv_heads},
      {"n_kv_heads", s.kv_heads},     {"head_dim", s.head_dim},   {"hidden_dim", s.hidden_dim},
      {"d_model", s.hidden_dim}};
  for (const auto& [name, size] : sizes) {
    h5::set_number(file, name, size);
  }
  h5::set_text(file, "projections", joined(s.projections, ','));
  h5::set_text(
      file, "created_utc",
      fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::to_time_t(
                                               std::chrono::system_clock::now()))));
  if (s.attributes.contains("")) {
    h5::store_attributes(file, s.attributes.at(""));
  }
}

/// Attributes of tables and groups; the objects exist by now.
void write_attributes(hid_t file, const Spectrum& spectrum) {
  for (const auto& [path, attributes] : spectrum.attributes) {
    if (!path.empty() && h5::exists(file, path)) {
      const Handle object(H5Oopen(file, path.c_str(), H5P_DEFAULT), H5Oclose);
      h5::require(static_cast<bool>(object), ErrorCode::failed, "the object cannot be opened",
                  path);
      h5::store_attributes(object, attributes);
    }
  }
}

void read_attributes(hid_t file, Spectrum& spectrum) {
  std::vector<std::string> paths = h5::list_groups(file);
  for (const auto& [path, table] : spectrum.tables) {
    paths.push_back(path);
  }
  for (const std::string& path : paths) {
    const Handle object(H5Oopen(file, path.c_str(), H5P_DEFAULT), H5Oclose);
    h5::Attributes found = object ? h5::load_attributes(object) : h5::Attributes();
    if (!found.empty()) {
      spectrum.attributes[path] = std::move(found);
    }
  }
  spectrum.attributes[""] = h5::load_attributes(file);
}

}  // namespace

void write_spectrum(const std::string& path, const Spectrum& spectrum, bool force) {
  TemporaryFile temporary(path, force);
  {
    const Session session;
    Handle file = h5::create_file(temporary.name());
    write_root(file, spectrum);
    write_axes(file, spectrum);
    for (const auto& [name, table] : spectrum.tables) {
      KVSCOPE_CHECK(is_table(name), ErrorCode::failed, "this table has no place in the schema",
                    name);
      write_table(file, name, table);
    }
    write_status(file, spectrum);
    h5::store_claims(file, spectrum.claims);
    write_attributes(file, spectrum);
    h5::require(H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0 && file.reset(), ErrorCode::io,
                "the file cannot be closed", path);
  }
  temporary.commit();
}

Spectrum read_spectrum(const std::string& path) {
  const Session session;
  const Handle file = h5::open_file(path);
  h5::check_format(file, "kvscope.spectrum", path);
  Spectrum spectrum;
  spectrum.model_name = h5::get_text(file, "model");
  spectrum.model_hash = h5::get_text(file, "model_hash");
  spectrum.weights_dtype = h5::get_text(file, "weights_dtype");
  spectrum.query_heads = size_attribute(file, "query_heads", path);
  spectrum.kv_heads = size_attribute(file, "kv_heads", path);
  spectrum.head_dim = size_attribute(file, "head_dim", path);
  spectrum.hidden_dim = size_attribute(file, "hidden_dim", path);
  spectrum.projections = split(h5::get_text(file, "projections"), ',');
  const Extent layers = h5::extent(h5::open_dataset(file, "axes/layer"), "axes/layer");
  KVSCOPE_CHECK(layers.size() == 1 && layers[0] <= (1 << 16), ErrorCode::corrupt_file,
                "the axis of layers is too long", path + ", /axes/layer");
  for (const std::int32_t layer : h5::load<std::int32_t>(file, "axes/layer", layers)) {
    spectrum.layers.push_back(layer);
  }
  for (const std::string& name : h5::list_datasets(file)) {
    if (is_table(name)) {
      spectrum.tables[name] = read_table(file, name);
    }
  }
  read_status(file, spectrum, path);
  spectrum.claims = h5::load_claims(file);
  read_attributes(file, spectrum);
  return spectrum;
}

}  // namespace kvscope
