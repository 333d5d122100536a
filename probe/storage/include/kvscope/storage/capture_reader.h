#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvscope/core/capture_index.h"
#include "kvscope/core/tokens.h"
#include "kvscope/storage/capture_state.h"

namespace kvscope {

/// Reads NAME.capture.h5 (specs/probe.md section 5). Every dimension is checked against the root
/// attributes before a byte is read. All calls of all readers share one lock; safe from any thread.
/// Throws Error{corrupt_file | io | unsupported} on opening, Error{missing_data} naming the profile
/// or flag that captures what is absent.
class CaptureReader {
 public:
  explicit CaptureReader(const std::string& path);
  ~CaptureReader();
  CaptureReader(CaptureReader&&) noexcept;
  CaptureReader& operator=(CaptureReader&&) noexcept;

  const CaptureIndex& index() const;
  const TokenTable& tokens() const;

  /// Looks again at a file that is being written: what was committed since becomes visible, nothing
  /// beyond it ever does. Returns whether anything changed. Not while another thread reads.
  bool refresh();
  /// Whether the prompt planes of a captured layer (index into index().layers) are whole.
  bool layer_done(int captured_layer) const;

  /// What was left out because the disk was slower than the run.
  const std::vector<DroppedRange>& dropped() const;

  /// Whether a dataset exists, e.g. "reduce/attention_sum" or "layers/000/keys".
  bool has(const std::string& dataset) const;
  /// Extent of a dataset; empty if absent.
  std::vector<std::int64_t> shape(const std::string& dataset) const;

  /// Reads the box [offset, offset + count) of any numeric dataset as float32 (bf16 and fp16 are
  /// widened exactly) into `out`, row-major. Throws unless the box lies inside and sizes agree.
  void read(const std::string& dataset, const std::vector<std::int64_t>& offset,
            const std::vector<std::int64_t>& count, std::span<float> out) const;
  void read(const std::string& dataset, const std::vector<std::int64_t>& offset,
            const std::vector<std::int64_t>& count, std::span<std::int32_t> out) const;

  /// A /reduce plane of one captured layer (index into index().layers): [heads, tokens], cut to
  /// `tokens` columns. `name` without "reduce/", e.g. "attention_sum", "window_32/window_sum".
  std::vector<float> read_plane(const std::string& name, int captured_layer, int tokens) const;

  /// String attribute of a dataset or of the root (""), empty if absent.
  std::string attribute(const std::string& dataset, const std::string& name) const;
  /// Paths of all datasets, sorted; for `inspect`.
  std::vector<std::string> datasets() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// "/layers/LLL/NAME" without the leading slash.
std::string layer_dataset(int layer, const std::string& name);

}  // namespace kvscope
