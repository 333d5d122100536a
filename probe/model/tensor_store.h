#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/model/block_type.h"

namespace kvscope {

/// A tensor on disk, mapped; `shape` is in torch order (slowest axis first).
struct StoredTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t elements = 0;
  const BlockType* block = nullptr;
  const std::uint8_t* data = nullptr;
};

/// The tensors of a model, whatever the format and the number of files.
class TensorStore {
 public:
  virtual ~TensorStore() = default;
  virtual const std::string& path() const = 0;
  virtual const std::vector<StoredTensor>& tensors() const = 0;
  virtual const StoredTensor* find(const std::string& name) const = 0;
  /// Throws Error{io} if a file has become shorter since it was opened.
  virtual void check_size() const = 0;
  /// See ModelFile::release.
  virtual void release() const = 0;
  /// One line for each entry of the metadata, for `inspect`.
  virtual std::vector<std::string> describe_metadata() const = 0;
};

}  // namespace kvscope
