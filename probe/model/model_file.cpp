#include "kvscope/model/model_file.h"

#include <filesystem>

#include "gguf_model.h"
#include "kvscope/core/error.h"
#include "kvscope/model/tokenizer.h"

namespace kvscope {

std::unique_ptr<ModelFile> ModelFile::open(const std::string& path) {
  std::error_code failure;
  KVSCOPE_CHECK(!std::filesystem::is_directory(path, failure), ErrorCode::unsupported,
                "model folders (safetensors) cannot be read yet", path,
                "give a .gguf file; llama.cpp's converters write one");
  return open_gguf_model(path);
}

std::string Tokenizer::decode(const std::vector<std::int32_t>& ids) const {
  std::string text;
  for (const std::int32_t id : ids) {
    text += piece(id);
  }
  return text;
}

}  // namespace kvscope
