#include "hf_model.h"

#include <fmt/format.h>

#include <filesystem>

#include "hf_tokenizer.h"
#include "kvscope/core/error.h"
#include "safetensors.h"

namespace kvscope {
namespace {

constexpr std::int64_t largest_config = 16 << 20;

/// Whether the output is the embedding: as config.json says, else by what is stored.
bool is_tied(const nlohmann::json& json, const TensorStore& store, const TensorLayout& layout) {
  const bool stored = store.find(layout.place(Weight::output, -1).tensor) != nullptr;
  const auto found = json.find("tie_word_embeddings");
  return found != json.end() && found->is_boolean() ? found->get<bool>() : !stored;
}

/// Blocks of FP8 weights that share a scale.
void read_scales(const nlohmann::json& json, const std::string& where, TensorLayout& layout) {
  const JsonFields fields(json, where);
  if (!fields.has("quantization_config")) {
    return;
  }
  const JsonFields quantized = fields.object("quantization_config");
  const nlohmann::json& block = quantized.array("weight_block_size");
  const auto natural = [](const nlohmann::json& size) {
    return size.is_number_unsigned() && size.get<std::uint64_t>() >= 1 &&
           size.get<std::uint64_t>() <= 65536;
  };
  if (block.size() != 2 || !natural(block[0]) || !natural(block[1])) {
    quantized.refuse("weight_block_size", "it must be two natural numbers");
  }
  layout.scale_rows = block[0].get<std::int64_t>();
  layout.scale_columns = block[1].get<std::int64_t>();
}

/// The biases that the config promises must be there, and no others.
void check_biases(const nlohmann::json& json, const ModelFile& file, const std::string& where) {
  const std::string& family = file.config().architecture;
  const JsonFields fields(json, where);
  const bool falcon = family == "falcon";
  const char* name = falcon ? "bias" : "attention_bias";
  const bool promised = family == "qwen2" || fields.flag(name, false);
  for (int layer = 0; layer < file.config().shape.layers; ++layer) {
    for (const Weight bias : {Weight::bq, Weight::bk, Weight::bv}) {
      KVSCOPE_CHECK(file.has(bias, layer) == promised, ErrorCode::corrupt_file,
                    fmt::format("layer {} has {} biases on its projections, config.json says "
                                "otherwise ('{}')",
                                layer, promised ? "no" : "unexpected", name),
                    where, "download config and weights again");
    }
  }
}

}  // namespace

std::unique_ptr<ModelFile> open_hf_model(const std::string& folder) {
  namespace fs = std::filesystem;
  const std::string path = (fs::path(folder) / "config.json").string();
  std::error_code failure;
  KVSCOPE_CHECK(fs::exists(path, failure), ErrorCode::io, "the folder holds no config.json", folder,
                "give a GGUF file, or a folder with config.json and safetensors weights");
  const nlohmann::json json = read_json_file(path, largest_config);
  ModelConfig config = read_hf_config(json, path);
  const auto store = open_safetensors(folder);
  TensorLayout layout = hf_layout(config, *store);
  const nlohmann::json& text = json.contains("text_config") ? json["text_config"] : json;
  config.tied_embeddings = is_tied(text, *store, layout);
  read_scales(json, path, layout);
  config.weights_dtype = most_common_type(*store);
  fs::path name = fs::path(folder);
  config.name = (name.filename().empty() ? name.parent_path() : name).filename().string();
  const int vocabulary = config.shape.vocabulary;
  auto file = make_tensor_model(store, std::move(config), std::move(layout), [folder, vocabulary] {
    return read_hf_tokenizer(folder, vocabulary);
  });
  check_biases(text, *file, path);
  return file;
}

}  // namespace kvscope
