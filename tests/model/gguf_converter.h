#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gguf_writer.h"
#include "kvscope/model/model_file.h"

namespace kvscope::test {

std::vector<float> read_weight(const ModelFile& file, Weight weight, int layer);

/// How a GGUF file stores matrices: a type id and the bytes of values.
struct GgufEncoding {
  std::uint32_t type = 0;
  std::string (*bytes)(const std::vector<float>& values) = nullptr;  ///< null: float32
};

/// Writes a model, opened from a folder, as llama.cpp's converter would.
class GgufConverter {
 public:
  GgufConverter(const ModelFile& file, std::string architecture, GgufEncoding matrices = {});

  void size(const char* key, int value);
  void real(const char* key, double value);
  void text(const char* key, const std::string& value);
  void tensor(const std::string& name, const std::vector<Weight>& parts, int layer);
  void layer(int index);
  /// Every tensor of the model.
  void all();

  GgufWriter writer;

 private:
  const ModelFile& file_;
  const ModelConfig& config_;
  std::string prefix_;
  GgufEncoding matrices_;
};

/// The metadata by which GGUF says what config.json says with other words: of a
/// tests/golden/family_NAME.json, `hf` being its config.
void add_metadata(GgufConverter& converter, const std::string& family, const ModelConfig& config,
                  const nlohmann::json& hf);

}  // namespace kvscope::test
