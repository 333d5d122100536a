#pragma once

#include <string>
#include <vector>

namespace kvscope {

enum class FileKind { capture, decision, spectrum, calibration, gguf, safetensors, hf_folder, unknown };

/// What a file is, from its first bytes and its root attribute `format`. Throws Error{io} if unreadable.
FileKind file_kind(const std::string& path);

/// Dataset paths, shapes, types and units of one of our HDF5 files, one line each; for `inspect`.
std::vector<std::string> describe_datasets(const std::string& path);

/// Findings of a full read of one of our HDF5 files: every dataset's bytes, finiteness of what must be
/// finite, rules of decisions, self-check residuals. Empty = sound. For `check`.
std::vector<std::string> check_file(const std::string& path);

}  // namespace kvscope
