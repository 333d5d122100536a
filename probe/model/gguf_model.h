#pragma once

#include <memory>
#include <string>

#include "kvscope/model/model_file.h"

namespace kvscope {

class GgufFile;

/// A GGUF file of architecture `llama`. Throws as ModelFile::open.
std::unique_ptr<ModelFile> open_gguf_model(const std::string& path);

/// Sizes and constants from the metadata of an opened file; every field is checked.
ModelConfig read_gguf_config(const GgufFile& file);

/// Name of a weight in GGUF files; `layer` is ignored for weights of the model.
std::string gguf_name(Weight weight, int layer);

}  // namespace kvscope
