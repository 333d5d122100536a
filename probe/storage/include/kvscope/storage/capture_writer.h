#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvscope/core/capture_index.h"
#include "kvscope/core/tokens.h"

namespace kvscope {

/// Element types on disk (specs/probe.md 5.2, 5.4).
enum class ElementType { f4, f8, f2, bf16, i4, i8, u1, u8 };

/// One dataset to be created before the run: its place, extent and what its numbers mean.
struct DatasetSpec {
  std::string path;  ///< without the leading slash
  ElementType type = ElementType::f4;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> chunk;   ///< empty: contiguous
  std::vector<std::string> labels;   ///< DIMENSION_LABELS; axes/NAME scales are attached where they exist
  std::string units;
  std::string long_name;
  std::string formula;
  std::string queries;        ///< population, e.g. "all prompt queries"
  std::string group_reduce;   ///< "none" for query-head data
  std::string kernel;         ///< what computed it
};

/// Writes a capture in batch mode: a temporary name beside `path`, renamed by `finish`. Destroyed
/// without `finish`, it removes the temporary file. One thread may call `write` (the writer thread).
/// Throws Error{io} (disk full, no permission) or Error{usage} (the file exists and `force` is off).
class CaptureWriter {
 public:
  struct Options {
    bool force = false;     ///< overwrite an existing file
    bool compress = false;  ///< shuffle + gzip 1 on /reduce planes
  };
  CaptureWriter(const std::string& path, const CaptureIndex& index, const TokenTable& prompt,
                const std::vector<DatasetSpec>& datasets, Options options);
  ~CaptureWriter();
  CaptureWriter(const CaptureWriter&) = delete;
  CaptureWriter& operator=(const CaptureWriter&) = delete;

  /// Writes the box at `offset` of extent `count`; float32 in memory, converted to the dataset's type
  /// (bf16 rounds to nearest even).
  void write(const std::string& dataset, const std::vector<std::int64_t>& offset,
             const std::vector<std::int64_t>& count, std::span<const float> values);
  void write(const std::string& dataset, const std::vector<std::int64_t>& offset,
             const std::vector<std::int64_t>& count, std::span<const std::int32_t> values);
  void write(const std::string& dataset, const std::vector<std::int64_t>& offset,
             const std::vector<std::int64_t>& count, std::span<const std::int64_t> values);

  /// Adds a generated token (segment 3) to /tokens.
  void append_token(std::int32_t id, std::int32_t position, const std::string& piece);
  /// Sets a string attribute of a dataset or of the root ("").
  void set_attribute(const std::string& dataset, const std::string& name, const std::string& value);

  /// Writes state and axes, closes, renames to the final name. `steps`: decode steps written.
  void finish(int steps);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvscope
