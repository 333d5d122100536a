#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvscope::test {

/// Builds the bytes of a safetensors file.
class SafetensorsWriter {
 public:
  void add(const std::string& name, const std::string& dtype,
           const std::vector<std::int64_t>& shape, const std::string& bytes);
  std::string bytes() const;

 private:
  nlohmann::json header_ = nlohmann::json::object();
  std::string data_;
};

std::string float_bytes(const std::vector<float>& values);

/// Writes config.json and model.safetensors of a tests/golden/family_NAME.json: the tiny model that
/// transformers was run on, with the weights that families.py seeds.
/// `dtype` and `bytes`: how tensors are stored.
void write_golden_folder(const nlohmann::json& golden, const std::string& folder,
                         const std::string& dtype = "F32",
                         std::string (*bytes)(const std::vector<float>& values) = float_bytes);

}  // namespace kvscope::test
