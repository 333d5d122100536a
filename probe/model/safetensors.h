#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mapped_file.h"
#include "tensor_store.h"

namespace kvscope {

/// One safetensors file, mapped (specs/probe.md 6.1): the header is checked as a whole before any
/// tensor is offered. Throws Error{io | corrupt_file | unsupported}, naming the tensor.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  const std::string& path() const { return path_; }
  /// In the order of their data.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  void check_size() const { mapping_->check_size(); }
  void release() const { mapping_->release(); }

 private:
  std::string path_;
  std::unique_ptr<MappedFile> mapping_;
  std::vector<StoredTensor> tensors_;
};

/// The tensors of a model folder: model.safetensors, or the shards that
/// model.safetensors.index.json lists. Sorted by name, so that sharding changes no hash.
std::shared_ptr<const TensorStore> open_safetensors(const std::string& folder);

}  // namespace kvscope
