#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvscope/core/capture_index.h"
#include "kvscope/core/tokens.h"
#include "kvscope/storage/capture_state.h"

namespace kvscope {

/// Element types on disk (specs/probe.md 5.2, 5.4).
enum class ElementType { f4, f8, f2, bf16, i4, i8, u1, u8 };

/// One dataset to be created before the run: its place, extent and what its numbers mean.
struct DatasetSpec {
  std::string path;  ///< without the leading slash
  ElementType type = ElementType::f4;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> chunk;  ///< empty: contiguous
  std::vector<std::string>
      labels;  ///< DIMENSION_LABELS; axes/NAME scales are attached where they exist
  std::string units;
  std::string long_name;
  std::string formula;
  std::string queries;       ///< population, e.g. "all prompt queries"
  std::string group_reduce;  ///< "none" for query-head data
  std::string kernel;        ///< what computed it
  std::vector<std::pair<std::string, std::int64_t>> numbers = {};  ///< further attributes
};

/// Writes a capture. In batch mode under a temporary name, renamed by `finish`; destroyed without
/// it, it leaves nothing. A live file gets its final name as soon as every object exists; from then
/// on others may follow it (SWMR), it is valid to its last commit whatever happens, and it stays.
/// One thread may call `write` and the others below it (the writer thread).
/// Throws Error{io} (disk full, no permission) or Error{usage} (the file exists and `force` is off,
/// or a live writer has it).
class CaptureWriter {
 public:
  struct Options {
    bool force = false;     ///< overwrite an existing file
    bool compress = false;  ///< shuffle + gzip 1 on /reduce planes; not of live files
    bool live = false;
  };
  CaptureWriter(const std::string& path, const CaptureIndex& index, const TokenTable& prompt,
                const std::vector<DatasetSpec>& datasets, Options options);
  ~CaptureWriter();
  CaptureWriter(const CaptureWriter&) = delete;
  CaptureWriter& operator=(const CaptureWriter&) = delete;

  /// Writes the box at `offset` of extent `count`; float32 in memory, converted to the dataset's
  /// type (bf16 rounds to nearest even).
  void write(const std::string& dataset, const std::vector<std::int64_t>& offset,
             const std::vector<std::int64_t>& count, std::span<const float> values);
  void write(const std::string& dataset, const std::vector<std::int64_t>& offset,
             const std::vector<std::int64_t>& count, std::span<const std::int32_t> values);
  void write(const std::string& dataset, const std::vector<std::int64_t>& offset,
             const std::vector<std::int64_t>& count, std::span<const std::int64_t> values);

  /// Adds a token that was fed after the prompt to /tokens.
  void append_token(std::int32_t id, std::int32_t position, const std::string& piece,
                    Segment segment = Segment::generated);
  /// Adds a row to /status/dropped. Throws Error{failed} if the dataset was not announced.
  void add_dropped(const DroppedRange& range);
  /// Sets a string attribute of a dataset or of the root ("").
  void set_attribute(const std::string& dataset, const std::string& name, const std::string& value);

  bool live() const;
  /// Of a live file; others ignore these. Brings every series to `steps` rows (what was not written
  /// reads as the fill value), flushes, then makes the first `steps` decode steps valid.
  void commit(int steps);
  /// Flushes, then marks the prompt planes of a captured layer (index into layers) as whole.
  void layer_done(int row);
  void set_state(CaptureState state);

  /// Writes axes and state, closes; of a batch file, renames. `steps`: decode steps written;
  /// `message`: what a reader should know about how the run ended.
  void finish(int steps, CaptureState state = CaptureState::done, const std::string& message = {});
  /// Ends a live file early: what was committed stays valid, the file says why it ends there. Does
  /// nothing for a batch file or after `finish`.
  void stop(CaptureState state, const std::string& message) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvscope
