#include "kvscope/storage/calibration_file.h"

#include <fmt/format.h>

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

constexpr const char* format_name = "kvscope.calibration";
constexpr std::int64_t most_elements = std::int64_t{1} << 28;

bool is_statistic(const std::string& path) {
  return path.starts_with("queries/") || path.starts_with("keys/") || path.starts_with("heads/");
}

/// Throws unless the array has layers, heads, and finite values of its shape.
void check_array(const Calibration& calibration, const std::string& name,
                 const CalibrationArray& array, ErrorCode code, const std::string& where) {
  const std::string object = fmt::format("{}, /{}", where, name);
  KVSCOPE_CHECK(
      array.shape.size() >= 2 && array.shape[0] == calibration.layers &&
          (array.shape[1] == calibration.query_heads || array.shape[1] == calibration.kv_heads),
      code,
      fmt::format("shape {} where {} layers and {} or {} heads are expected",
                  h5::extent_text(array.shape), calibration.layers, calibration.query_heads,
                  calibration.kv_heads),
      object, "calibrate again");
  KVSCOPE_CHECK(
      static_cast<std::int64_t>(array.values.size()) == h5::elements(array.shape), code,
      fmt::format("{} values for shape {}", array.values.size(), h5::extent_text(array.shape)),
      object, "calibrate again");
  const auto bad = std::find_if(array.values.begin(), array.values.end(),
                                [](float value) { return !std::isfinite(value); });
  KVSCOPE_CHECK(bad == array.values.end(), code,
                fmt::format("value {} is not finite", bad - array.values.begin()), object,
                "calibrate again, in float32");
}

int size_attribute(hid_t file, const char* name, const std::string& path) {
  const std::int64_t value = h5::get_number(file, name, -1);
  KVSCOPE_CHECK(value >= 1 && value < (1 << 20), ErrorCode::corrupt_file,
                fmt::format("{} is {}", name, value), path, "calibrate again");
  return static_cast<int>(value);
}

CalibrationArray read_array(hid_t file, const std::string& name, const Extent& extent) {
  const Handle dataset = h5::open_dataset(file, name);
  CalibrationArray array;
  array.shape = extent;
  array.values = h5::load<float>(file, name, extent);
  array.units = h5::get_text(dataset, "units");
  array.long_name = h5::get_text(dataset, "long_name");
  array.formula = h5::get_text(dataset, "formula");
  array.axes = h5::axis_names(dataset, extent.size());
  return array;
}

void write_attributes(hid_t file, const Calibration& calibration) {
  h5::set_format(file, format_name);
  h5::set_text(file, "model", calibration.model_name);
  h5::set_text(file, "model_hash", calibration.model_hash);
  h5::set_text(file, "corpus_hash", calibration.corpus_hash);
  h5::set_number(file, "layers", calibration.layers);
  h5::set_number(file, "query_heads", calibration.query_heads);
  h5::set_number(file, "kv_heads", calibration.kv_heads);
  h5::set_number(file, "head_dim", calibration.head_dim);
  h5::set_number(file, "tokens", calibration.tokens);
  h5::set_number(file, "window", calibration.window);
}

}  // namespace

void write_calibration(const std::string& path, const Calibration& calibration, bool force) {
  for (const auto& [name, array] : calibration.arrays) {
    KVSCOPE_CHECK(is_statistic(name), ErrorCode::failed, "this array has no place in the schema",
                  name, "name it queries/..., keys/... or heads/...");
    check_array(calibration, name, array, ErrorCode::failed, path);
  }
  TemporaryFile temporary(path, force);
  {
    const Session session;
    Handle file = h5::create_file(temporary.name());
    write_attributes(file, calibration);
    for (const auto& [name, array] : calibration.arrays) {
      DatasetSpec spec;
      spec.path = name;
      spec.shape = array.shape;
      spec.labels = array.axes;
      spec.units = array.units;
      spec.long_name = array.long_name;
      spec.formula = array.formula;
      h5::store(file, spec, array.values);
    }
    h5::require(H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0 && file.reset(), ErrorCode::io,
                "the file cannot be closed", path);
  }
  temporary.commit();
}

Calibration read_calibration(const std::string& path) {
  const Session session;
  const Handle file = h5::open_file(path);
  h5::check_format(file, format_name, path);
  Calibration calibration;
  calibration.model_name = h5::get_text(file, "model");
  calibration.model_hash = h5::get_text(file, "model_hash");
  calibration.corpus_hash = h5::get_text(file, "corpus_hash");
  calibration.layers = size_attribute(file, "layers", path);
  calibration.query_heads = size_attribute(file, "query_heads", path);
  calibration.kv_heads = size_attribute(file, "kv_heads", path);
  calibration.head_dim = size_attribute(file, "head_dim", path);
  calibration.window = size_attribute(file, "window", path);
  calibration.tokens = h5::get_number(file, "tokens", -1);
  KVSCOPE_CHECK(calibration.tokens >= 1 && !calibration.model_hash.empty(), ErrorCode::corrupt_file,
                "the model's hash or the number of tokens is missing", path, "calibrate again");
  for (const std::string& name : h5::list_datasets(file)) {
    if (!is_statistic(name)) {
      continue;
    }
    const Extent extent = h5::extent(h5::open_dataset(file, name), name);
    std::int64_t elements = 1;
    for (const std::int64_t size : extent) {
      KVSCOPE_CHECK(size >= 0 && (size == 0 || elements <= most_elements / size),
                    ErrorCode::corrupt_file, "the array claims an impossible size",
                    fmt::format("{}, /{}", path, name), "calibrate again");
      elements *= size;
    }
    CalibrationArray array = read_array(file, name, extent);
    check_array(calibration, name, array, ErrorCode::corrupt_file, path);
    calibration.arrays[name] = std::move(array);
  }
  return calibration;
}

}  // namespace kvscope
