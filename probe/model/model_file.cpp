#include "kvscope/model/model_file.h"

#include <fmt/format.h>

#include <filesystem>

#include "gguf_model.h"
#include "hf_model.h"
#include "kvscope/core/error.h"

namespace kvscope {

std::string ModelFile::weight_name(Weight weight, int layer) const {
  return fmt::format("weight {} of layer {}", static_cast<int>(weight), layer);
}

std::unique_ptr<ModelFile> ModelFile::open(const std::string& path) {
  std::error_code failure;
  if (std::filesystem::is_directory(path, failure)) {
    return open_hf_model(path);
  }
  return open_gguf_model(path);
}

const BlockType* ModelFile::blocks(Weight, int) const {
  return nullptr;
}

void ModelFile::read_blocks(Weight, int, std::span<std::uint8_t>) const {
  throw Error(ErrorCode::usage, "this weight is not its stored blocks", "ModelFile::read_blocks",
              "use read");
}

}  // namespace kvscope
