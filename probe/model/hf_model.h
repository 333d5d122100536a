#pragma once

#include <memory>
#include <string>

#include "checked_json.h"
#include "kvscope/model/model_file.h"
#include "tensor_model.h"

namespace kvscope {

/// A Hugging Face folder: config.json, safetensors weights, tokenizer. Throws as ModelFile::open.
/// The config is judged before any weight is opened.
std::unique_ptr<ModelFile> open_hf_model(const std::string& folder);

/// What config.json says (spellings of transformers 4 and 5); sizes that only tensors tell
/// (tied embeddings, weights_dtype) are left out. Throws Error{unsupported} naming the field.
ModelConfig read_hf_config(const nlohmann::json& json, const std::string& where);

/// Names of the weights in folders of `config`'s architecture, and what is fused.
TensorLayout hf_layout(const ModelConfig& config, const TensorStore& store);

}  // namespace kvscope
