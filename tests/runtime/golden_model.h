#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kvscope/model/model_file.h"

namespace kvscope::test {

/// The tiny model of one `golden/family_NAME.json` in memory: weights come from the seeded numbers
/// that families.py gave transformers, the config from what families.py says it must be.
class GoldenModel final : public ModelFile {
 public:
  explicit GoldenModel(const nlohmann::json& golden);

  const ModelConfig& config() const override { return config_; }
  std::string hash() const override { return "00000000f0f0f0f0"; }
  bool has(Weight weight, int layer) const override { return sources_.contains({weight, layer}); }
  std::pair<std::int64_t, std::int64_t> weight_shape(Weight weight, int layer) const override;
  std::string weight_dtype(Weight, int) const override { return "F32"; }
  void read(Weight weight, int layer, std::span<float> out, int threads) const override;
  std::shared_ptr<const Tokenizer> tokenizer() const override { return nullptr; }
  std::vector<std::string> describe() const override { return {}; }

  /// Writes the model as Hugging Face folders hold it: config.json and model.safetensors.
  void write_folder(const nlohmann::json& golden, const std::string& folder) const;

 private:
  struct Tensor {
    std::int64_t rows = 0;
    std::int64_t columns = 1;
    float scale = 0;
    float offset = 0;
  };
  /// Rows of a stored tensor that make one weight; all of them where `rows` is 0.
  struct Source {
    std::string tensor;
    std::int64_t first = 0;
    std::int64_t rows = 0;
  };

  void read_config(const nlohmann::json& expected);
  void add(Weight weight, int layer, const std::string& tensor, std::int64_t first = 0,
           std::int64_t rows = 0);
  void add_layer(int layer);
  void add_falcon_layer(int layer);

  ModelConfig config_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::pair<Weight, int>, Source> sources_;
  bool sandwich_ = false;  ///< Gemma: norms before and after each block, stored minus one
};

}  // namespace kvscope::test
