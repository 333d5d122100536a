#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "kvscope/core/decision.h"
#include "kvscope/core/error.h"
#include "kvscope/core/spectrum.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope::test {

/// A folder of its own, removed at the end.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::vector<std::string> names() const;

 private:
  std::filesystem::path path_;
};

/// Two layers of 4 query heads and 2 KV heads of dimension 4; 6 prompt tokens and 3 planned ones.
CaptureIndex sample_index();
TokenTable sample_prompt();
/// A plane of each kind: f4 over planned tokens, bf16 tensor, a step series, a growing i4 series.
std::vector<DatasetSpec> sample_datasets();
/// Writes sample values (`sample_value` of each cell) and two steps.
void write_sample_capture(const std::string& path, bool force = false);
float sample_value(std::size_t cell);

/// All of P K T M E D and S, merge edges with a finished key row, scores, terms, metrics.
Decision sample_decision();
Spectrum sample_spectrum();

std::string read_bytes(const std::string& path);
void write_bytes(const std::string& path, const std::string& bytes);

/// The error that `body` throws; code `failed` and an empty message if none.
template <typename Body>
Error error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::failed, "");
}

}  // namespace kvscope::test
