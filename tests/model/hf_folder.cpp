#include "hf_folder.h"

#include <cstring>
#include <fstream>

namespace kvscope::test {
namespace {

/// families.py's numbers in [-1, 1): splitmix64 over FNV-1a of the name plus the index.
std::vector<float> seeded(const std::string& name, std::size_t count, float scale, float offset) {
  std::uint64_t state = 14695981039346656037u;
  for (const char byte : name) {
    state = (state ^ static_cast<unsigned char>(byte)) * 1099511628211u;
  }
  std::vector<float> values(count);
  for (float& value : values) {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z = z ^ (z >> 31);
    value = (static_cast<float>(z >> 40) / 8388608.0f - 1.0f) * scale + offset;
  }
  return values;
}

}  // namespace

void SafetensorsWriter::add(const std::string& name, const std::string& dtype,
                            const std::vector<std::int64_t>& shape, const std::string& bytes) {
  const std::size_t begin = data_.size();
  data_ += bytes;
  header_[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, data_.size()}}};
}

std::string SafetensorsWriter::bytes() const {
  std::string header = header_.dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data_;
}

std::string float_bytes(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

void write_golden_folder(const nlohmann::json& golden, const std::string& folder,
                         const std::string& dtype,
                         std::string (*bytes)(const std::vector<float>& values)) {
  std::ofstream(folder + "/config.json") << golden.at("config").dump(2);
  SafetensorsWriter writer;
  for (const nlohmann::json& tensor : golden.at("tensors")) {
    const auto shape = tensor.at("shape").get<std::vector<std::int64_t>>();
    std::size_t count = 1;
    for (const std::int64_t axis : shape) {
      count *= static_cast<std::size_t>(axis);
    }
    const auto name = tensor.at("name").get<std::string>();
    writer.add(name, dtype, shape,
               bytes(seeded(name, count, tensor.at("scale").get<float>(),
                            tensor.at("offset").get<float>())));
  }
  std::ofstream(folder + "/model.safetensors", std::ios::binary) << writer.bytes();
}

}  // namespace kvscope::test
