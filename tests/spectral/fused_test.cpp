#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "hf_folder.h"
#include "kvscope/model/model_file.h"
#include "kvscope/spectral/analyze.h"

namespace kvscope {
namespace {

/// A float32 tensor of a safetensors file, read without our reader.
std::vector<float> raw_tensor(const std::string& path, const std::string& name) {
  std::ifstream file(path, std::ios::binary);
  std::uint64_t size = 0;
  file.read(reinterpret_cast<char*>(&size), 8);
  std::string text(size, '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  const nlohmann::json entry = nlohmann::json::parse(text).at(name);
  EXPECT_EQ(entry.at("dtype"), "F32");
  const auto offsets = entry.at("data_offsets").get<std::vector<std::uint64_t>>();
  std::string bytes(offsets[1] - offsets[0], '\0');
  file.seekg(static_cast<std::streamoff>(8 + size + offsets[0]));
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

double energy(const std::vector<float>& values, std::size_t first_row, std::size_t rows,
              std::size_t columns) {
  double sum = 0;
  for (std::size_t i = first_row * columns; i < (first_row + rows) * columns; ++i) {
    sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  return sum;
}

TEST(FusedProjections, AreTakenApartByTheModelsHeads) {
  const std::string folder =
      (std::filesystem::temp_directory_path() / "kvscope_fused_spectrum").string();
  std::filesystem::create_directories(folder);
  std::ifstream golden(std::string(KVSCOPE_SOURCE_DIR) + "/tests/golden/family_phi3.json");
  test::write_golden_folder(nlohmann::json::parse(golden), folder);
  const auto model = ModelFile::open(folder);
  const Spectrum spectrum = analyze_weights(*model, {});
  const ModelShape& shape = model->config().shape;
  const auto head = static_cast<std::size_t>(shape.head_dim);
  const auto width = static_cast<std::size_t>(shape.hidden_dim);
  const std::size_t queries = static_cast<std::size_t>(shape.query_heads) * head;
  const std::size_t keys = static_cast<std::size_t>(shape.kv_heads) * head;
  const std::vector<float> fused =
      raw_tensor(folder + "/model.safetensors", "model.layers.1.self_attn.qkv_proj.weight");
  ASSERT_EQ(fused.size(), (queries + 2 * keys) * width);
  const SpectrumTable* layers = spectrum.find("metrics/layer/fro2");
  ASSERT_NE(layers, nullptr);
  const std::size_t first[] = {0, queries, queries + keys};
  const std::size_t rows[] = {queries, keys, keys};
  for (std::size_t p = 0; p < 3; ++p) {
    const double expected = energy(fused, first[p], rows[p], width);
    EXPECT_NEAR(layers->values[4 + p], expected, 1e-9 * expected) << "projection " << p;
    const SpectrumTable* heads = spectrum.find(std::string("metrics/head/") + "qkv"[p] + "/fro2");
    ASSERT_NE(heads, nullptr);
    for (std::size_t h = 0; h < rows[p] / head; ++h) {
      const double of_head = energy(fused, first[p] + h * head, head, width);
      EXPECT_NEAR(heads->values[rows[p] / head + h], of_head, 1e-9 * of_head) << p << " " << h;
    }
  }
  for (const SpectrumStatus status : spectrum.status) {
    EXPECT_EQ(status, SpectrumStatus::ok);
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace kvscope
