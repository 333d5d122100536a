#pragma once

#include <hdf5.h>

#include <string>
#include <vector>

#include "h5.h"
#include "kvscope/core/tokens.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope::h5 {

/// Tables that CaptureWriter makes itself.
bool made_by_writer(const std::string& path);

/// An existing dataset as it was announced when its file was made; `shape` is what it has now.
DatasetSpec spec_of(hid_t file, const std::string& path);

/// Part of a dataset: on each axis the indices from `first` on, `count` of them; on `picked_axis`
/// (-1 = none) those of `picked` instead, ascending.
struct Part {
  Extent first;
  Extent count;
  int picked_axis = -1;
  std::vector<std::int64_t> picked;
};
/// All of it.
Part whole_of(const Extent& extent);

/// Copies `part` of the dataset `path` of `file` to the dataset of that name in `writer`, from
/// index 0 on, in boxes of a few MiB.
void copy_part(hid_t file, const std::string& path, ElementType type, const Part& part,
               CaptureWriter& writer);

/// The tokens of the prompt, without what was generated.
TokenTable prompt_of(const TokenTable& tokens, int prompt_tokens);

}  // namespace kvscope::h5
