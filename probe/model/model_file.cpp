#include "kvscope/model/model_file.h"

#include <filesystem>

#include "gguf_model.h"
#include "hf_model.h"

namespace kvscope {

std::unique_ptr<ModelFile> ModelFile::open(const std::string& path) {
  std::error_code failure;
  if (std::filesystem::is_directory(path, failure)) {
    return open_hf_model(path);
  }
  return open_gguf_model(path);
}

}  // namespace kvscope
