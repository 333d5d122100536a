#include "scorers/calibrated.h"

#include <ATen/ops/from_blob.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kvscope/core/error.h"
#include "kvscope/storage/calibration_file.h"

namespace kvscope::detail {
namespace {

Calibration read(const std::string& method, const std::string& path) {
  KVSCOPE_CHECK(!path.empty(), ErrorCode::usage,
                fmt::format("method '{}' needs a calibration of the model", method), "method text",
                fmt::format("kvscope calibrate MODEL -f CORPUS -o NAME.calibration.h5, then write "
                            "{}:calibration=NAME.calibration.h5",
                            method));
  return read_calibration(path);
}

}  // namespace

Calibrated::Calibrated(const std::string& method, const std::string& path)
    : path_(path), calibration_(read(method, path)) {}

void Calibrated::check_model(const RunPlan& plan) const {
  KVSCOPE_CHECK(calibration_.model_hash == plan.model_hash, ErrorCode::usage,
                fmt::format("the calibration was made on another model: '{}' ({})",
                            calibration_.model_name, calibration_.model_hash),
                path_,
                "calibrate this model: kvscope calibrate MODEL -f CORPUS -o "
                "NAME.calibration.h5");
}

void Calibrated::check_array(const char* name, const std::vector<std::int64_t>& shape) const {
  const CalibrationArray* array = calibration_.find(name);
  KVSCOPE_CHECK(array != nullptr, ErrorCode::missing_data,
                fmt::format("the calibration holds no {}", name), path_, "calibrate again");
  KVSCOPE_CHECK(array->shape == shape, ErrorCode::corrupt_file,
                fmt::format("{} has shape [{}], not [{}]: layers, heads, numbers of a head", name,
                            fmt::join(array->shape, ", "), fmt::join(shape, ", ")),
                path_, "calibrate again");
}

at::Tensor Calibrated::plane(const char* name, int layer) const {
  const CalibrationArray& array = *calibration_.find(name);
  const std::int64_t size = array.shape[1] * array.shape[2];
  // from_blob does not write; it only lacks a const form.
  auto* first = const_cast<float*>(array.values.data()) + layer * size;
  return at::from_blob(first, {array.shape[1], array.shape[2]}, at::kFloat);
}

}  // namespace kvscope::detail
