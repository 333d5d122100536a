#pragma once

#include <memory>
#include <string>

#include "kvscope/model/model_file.h"
#include "tensor_model.h"

namespace kvscope {

class GgufFile;

/// A GGUF file, or the first of several parts (NAME-00001-of-0000N.gguf). Throws as
/// ModelFile::open.
std::unique_ptr<ModelFile> open_gguf_model(const std::string& path);

/// Sizes and constants from the metadata of an opened file; every field is checked. `store` has the
/// tensors of all parts.
ModelConfig read_gguf_config(const GgufFile& file, const TensorStore& store);

/// Names of the weights in GGUF files of `config`'s architecture, and what is fused or reordered.
TensorLayout gguf_layout(const ModelConfig& config, const TensorStore& store);

}  // namespace kvscope
