#include "kvscope/storage/file_kind.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>

#include "attributes.h"
#include "h5.h"
#include "kvscope/storage/calibration_file.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/spectrum_file.h"

namespace kvscope {
namespace {

using h5::Extent;
using h5::Handle;
using h5::Session;

constexpr double largest_residual = 1e-3;

FileKind kind_of_hdf5(const std::string& path) {
  const Session session;
  const Handle file = h5::open_file(path);
  const std::string format = h5::get_text(file, "format");
  if (format == "kvscope.capture") {
    return FileKind::capture;
  }
  if (format == "kvscope.decision") {
    return FileKind::decision;
  }
  if (format == "kvscope.spectrum") {
    return FileKind::spectrum;
  }
  return format == "kvscope.calibration" ? FileKind::calibration : FileKind::unknown;
}

/// Reads every byte of every dataset; appends what cannot be read, and infinities.
void read_everything(const std::string& path, std::vector<std::string>& findings) {
  const Session session;
  const Handle file = h5::open_file(path);
  for (const std::string& name : h5::list_datasets(file)) {
    try {
      const Handle dataset = h5::open_dataset(file, name);
      const Handle type(H5Dget_type(dataset), H5Tclose);
      if (H5Tget_class(type) == H5T_STRING || H5Tget_class(type) == H5T_COMPOUND) {
        continue;  // names, messages and tables: read by the file's own reader
      }
      h5::element_type(type, "/" + name);
      std::int64_t infinite = 0;
      h5::read_boxes(dataset, name, [&](std::span<const float> values) {
        infinite += std::count_if(values.begin(), values.end(),
                                  [](float value) { return std::isinf(value); });
      });
      const bool may_be_infinite = name.ends_with("lse") || name.ends_with("score") ||
                                   name.ends_with("logits_attention");
      if (infinite > 0 && !may_be_infinite) {
        findings.push_back(fmt::format("/{}: {} infinite values", name, infinite));
      }
    } catch (const Error& error) {
      findings.push_back(fmt::format("/{}: {}", name, error.message()));
    }
  }
}

void check_capture(const std::string& path, std::vector<std::string>& findings) {
  const CaptureReader reader(path);
  if (reader.index().state != 4) {
    findings.push_back(
        fmt::format("the run did not end normally (state {})", reader.index().state));
  }
  if (!reader.has("reduce/self_check")) {
    return;
  }
  const Extent extent = reader.shape("reduce/self_check");
  std::vector<float> residual(static_cast<std::size_t>(h5::elements(extent)));
  reader.read("reduce/self_check", Extent(extent.size(), 0), extent, std::span(residual));
  for (std::size_t cell = 0; cell < residual.size(); ++cell) {
    if (!(residual[cell] <= largest_residual)) {
      const auto heads = static_cast<std::size_t>(extent[1]);
      findings.push_back(
          fmt::format("layer {}, query head {}: attention sums are off by {:.2g} of the queries",
                      reader.index().layers[cell / heads], cell % heads, residual[cell]));
    }
  }
}

}  // namespace

FileKind file_kind(const std::string& path) {
  std::error_code failure;
  if (std::filesystem::is_directory(path, failure)) {
    return std::filesystem::exists(path + "/config.json", failure) ? FileKind::hf_folder
                                                                   : FileKind::unknown;
  }
  std::ifstream file(path, std::ios::binary);
  KVSCOPE_CHECK(file.good(), ErrorCode::io, fmt::format("cannot read: {}", std::strerror(errno)),
                path, "check the name and the permissions");
  std::array<char, 16> head{};
  file.read(head.data(), head.size());
  const std::string_view bytes(head.data(), static_cast<std::size_t>(file.gcount()));
  if (bytes.starts_with("GGUF")) {
    return FileKind::gguf;
  }
  if (bytes.starts_with("\x89HDF\r\n\x1a\n")) {
    return kind_of_hdf5(path);
  }
  return bytes.size() > 8 && bytes[8] == '{' && bytes[7] == '\0' ? FileKind::safetensors
                                                                 : FileKind::unknown;
}

std::vector<std::string> describe_datasets(const std::string& path) {
  const Session session;
  const Handle file = h5::open_file(path);
  std::vector<std::string> lines;
  for (const std::string& name : h5::list_datasets(file)) {
    const Handle dataset = h5::open_dataset(file, name);
    const Handle type(H5Dget_type(dataset), H5Tclose);
    std::string type_name = "other";
    try {
      type_name = h5::element_name(h5::element_type(type, name));
    } catch (const Error&) {
      type_name = "other";
    }
    lines.push_back(fmt::format("/{:<40} {:<9} {:<22} {}", name, type_name,
                                h5::extent_text(h5::extent(dataset, name)),
                                h5::get_text(dataset, "units")));
  }
  return lines;
}

std::vector<std::string> check_file(const std::string& path) {
  std::vector<std::string> findings;
  switch (file_kind(path)) {
    case FileKind::capture:
      check_capture(path, findings);
      break;
    case FileKind::decision:
      read_decision(path);
      break;
    case FileKind::spectrum:
      read_spectrum(path);
      break;
    case FileKind::calibration:
      read_calibration(path);
      break;
    default:
      throw Error(ErrorCode::unsupported, "this is no HDF5 file of kvscope", path);
  }
  read_everything(path, findings);
  return findings;
}

}  // namespace kvscope
