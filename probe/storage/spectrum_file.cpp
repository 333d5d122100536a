#include "kvscope/storage/spectrum_file.h"

#include <fmt/format.h>
#include <hdf5_hl.h>

#include <algorithm>
#include <cmath>

#include "attributes.h"
#include "h5.h"
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

void write_table(hid_t file, const std::string& path, const SpectrumTable& table) {
  DatasetSpec spec;
  spec.path = path;
  spec.type = holds_counts(path) ? ElementType::i4 : ElementType::f8;
  spec.shape.assign(table.shape.begin(), table.shape.end());
  spec.labels = table.axes;
  spec.units = table.units;
  spec.long_name = table.long_name;
  spec.formula = table.formula;
  if (!holds_counts(path)) {
    h5::store(file, spec, table.values);
    return;
  }
  std::vector<std::int32_t> counts;
  for (const double value : table.values) {
    counts.push_back(std::isfinite(value) ? static_cast<std::int32_t>(value) : -1);
  }
  h5::store(file, spec, counts);
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
  for (std::size_t axis = 0; axis < extent.size(); ++axis) {
    char label[64] = "";
    H5DSget_label(dataset, static_cast<unsigned>(axis), label, sizeof label);
    table.axes.emplace_back(label);
  }
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

std::vector<std::uint8_t> bytes_of(const std::string& text) {
  return {text.begin(), text.end()};
}

void write_status(hid_t file, const Spectrum& spectrum) {
  const Extent shape = {static_cast<std::int64_t>(spectrum.layers.size()),
                        static_cast<std::int64_t>(spectrum.projections.size())};
  DatasetSpec spec;
  spec.path = "status/code";
  spec.type = ElementType::u1;
  spec.shape = shape;
  spec.labels = {"layer", "projection"};
  spec.long_name =
      "0 ok, 1 missing, 2 nonfinite, 3 zero, 4 neg_eig, 5 no_convergence, 6 unsupported_dtype, 7 "
      "bad_shape, 8 skipped_by_user";
  std::vector<std::uint8_t> codes;
  for (const SpectrumStatus status : spectrum.status) {
    codes.push_back(static_cast<std::uint8_t>(status));
  }
  h5::store(file, spec, codes);
  const std::string messages = joined(spectrum.message, '\n');
  spec.path = "status/message_bytes";
  spec.shape = {static_cast<std::int64_t>(messages.size())};
  spec.labels = {};
  spec.long_name = "one line for each matrix, in the order of /status/code";
  h5::store(file, spec, bytes_of(messages));
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
  const std::string name = "status/message_bytes";
  const Extent extent = h5::extent(h5::open_dataset(file, name), name);
  const auto bytes = h5::load<std::uint8_t>(file, name, extent);
  spectrum.message = split({bytes.begin(), bytes.end()}, '\n');
  spectrum.message.resize(spectrum.status.size());
}

}  // namespace

void write_spectrum(const std::string& path, const Spectrum& spectrum, bool force) {
  TemporaryFile temporary(path, force);
  {
    const Session session;
    Handle file = h5::create_file(temporary.name());
    h5::set_format(file, "kvscope.spectrum");
    h5::set_text(file, "schema", "kv-spectral");
    h5::set_text(file, "model", spectrum.model_name);
    h5::set_text(file, "model_hash", spectrum.model_hash);
    h5::set_text(file, "weights_dtype", spectrum.weights_dtype);
    h5::set_number(file, "query_heads", spectrum.query_heads);
    h5::set_number(file, "kv_heads", spectrum.kv_heads);
    h5::set_number(file, "head_dim", spectrum.head_dim);
    h5::set_number(file, "hidden_dim", spectrum.hidden_dim);
    h5::set_text(file, "projections", joined(spectrum.projections, ','));
    DatasetSpec axis;
    axis.path = "axes/layer";
    axis.type = ElementType::i4;
    axis.shape = {static_cast<std::int64_t>(spectrum.layers.size())};
    h5::store(file, axis,
              std::vector<std::int32_t>(spectrum.layers.begin(), spectrum.layers.end()));
    const auto counting = [&](const char* name, int count) {
      std::vector<std::int32_t> values(static_cast<std::size_t>(count));
      for (int index = 0; index < count; ++index) {
        values[static_cast<std::size_t>(index)] = index;
      }
      axis.path = std::string("axes/") + name;
      axis.shape = {count};
      h5::store(file, axis, values);
    };
    counting("q_head", spectrum.query_heads);
    counting("kv_head", spectrum.kv_heads);
    for (const auto& [name, table] : spectrum.tables) {
      KVSCOPE_CHECK(is_table(name), ErrorCode::failed, "this table has no place in the schema",
                    name);
      write_table(file, name, table);
    }
    write_status(file, spectrum);
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
  return spectrum;
}

}  // namespace kvscope
