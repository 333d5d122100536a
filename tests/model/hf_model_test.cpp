#include "hf_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "../runtime/golden_model.h"
#include "hf_folder.h"
#include "model_test_support.h"

namespace kvscope {
namespace {

using nlohmann::json;
using test::TemporaryFolder;
using testing::HasSubstr;

json golden(const std::string& family) {
  return json::parse(test::read_file(test::source_path("tests/golden/family_" + family + ".json")));
}

std::vector<float> read(const ModelFile& file, Weight weight, int layer) {
  const auto [rows, columns] = file.weight_shape(weight, layer);
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  file.read(weight, layer, values, 2);
  return values;
}

class HfFamily : public testing::TestWithParam<const char*> {};

void expect_same_shape(const ModelConfig& ours, const ModelConfig& theirs) {
  EXPECT_EQ(ours.shape.layers, theirs.shape.layers);
  EXPECT_EQ(ours.shape.query_heads, theirs.shape.query_heads);
  EXPECT_EQ(ours.shape.kv_heads, theirs.shape.kv_heads);
  EXPECT_EQ(ours.shape.head_dim, theirs.shape.head_dim);
  EXPECT_EQ(ours.shape.hidden_dim, theirs.shape.hidden_dim);
  EXPECT_EQ(ours.shape.vocabulary, theirs.shape.vocabulary);
  EXPECT_EQ(ours.mlp_dim, theirs.mlp_dim);
  EXPECT_DOUBLE_EQ(ours.shape.attention_scale, theirs.shape.attention_scale);
  EXPECT_DOUBLE_EQ(ours.shape.logit_softcap, theirs.shape.logit_softcap);
  EXPECT_DOUBLE_EQ(ours.output_softcap, theirs.output_softcap);
  EXPECT_DOUBLE_EQ(ours.norm_epsilon, theirs.norm_epsilon);
  EXPECT_EQ(ours.tied_embeddings, theirs.tied_embeddings);
  EXPECT_EQ(ours.norm, theirs.norm);
  EXPECT_EQ(ours.activation, theirs.activation);
  EXPECT_EQ(ours.gated_mlp, theirs.gated_mlp);
  EXPECT_EQ(ours.parallel_mlp, theirs.parallel_mlp);
  EXPECT_NEAR(ours.embedding_scale, theirs.embedding_scale, 1e-6);
}

/// config.json gives what transformers made of it, weights come out as transformers used them.
TEST_P(HfFamily, ConfigAndWeightsAreThoseOfTransformers) {
  const TemporaryFolder folder;
  const json file = golden(GetParam());
  test::write_golden_folder(file, folder.path());
  const auto ours = ModelFile::open(folder.path());
  const test::GoldenModel theirs(file);
  expect_same_shape(ours->config(), theirs.config());
  const int tokens = static_cast<int>(file.at("ids").size());
  const json& ropes = file.at("expected").at("ropes");
  for (int layer = 0; layer < ours->config().shape.layers; ++layer) {
    const auto at = static_cast<std::size_t>(layer);
    EXPECT_EQ(ours->config().shape.window_of(layer), theirs.config().shape.window_of(layer));
    const RopeParameters& rope = ours->config().shape.rope_of(layer);
    const auto expected = ropes[at].at("inverse_frequency").get<std::vector<double>>();
    const auto frequencies = rope.dims == 0 ? std::vector<double>{} : rope.frequencies(tokens);
    ASSERT_EQ(frequencies.size(), expected.size()) << "layer " << layer;
    for (std::size_t pair = 0; pair < expected.size(); ++pair) {
      EXPECT_NEAR(frequencies[pair], expected[pair], 1e-6 * expected[pair]) << pair;
    }
    if (rope.dims > 0) {
      EXPECT_NEAR(rope.attention_factor, ropes[at].at("attention_factor").get<double>(), 1e-6);
    }
  }
  for (int layer = -1; layer < ours->config().shape.layers; ++layer) {
    for (int weight = 0; weight <= static_cast<int>(Weight::output_norm_bias); ++weight) {
      const auto which = static_cast<Weight>(weight);
      if (theirs.has(which, layer)) {
        ASSERT_TRUE(ours->has(which, layer)) << weight << " layer " << layer;
        EXPECT_EQ(ours->weight_shape(which, layer), theirs.weight_shape(which, layer)) << weight;
        EXPECT_EQ(read(*ours, which, layer), read(theirs, which, layer)) << weight;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, HfFamily,
                         testing::Values("llama2", "llama3", "llama_ntk", "mistral", "qwen2",
                                         "qwen3", "phi3", "phi3_long", "gemma2", "gemma3",
                                         "smollm3", "falcon"));

/// The spelling of transformers 4 means the same.
TEST(HfConfig, OldSpellings) {
  json llama = golden("llama3").at("config");
  const ModelConfig fifth = read_hf_config(llama, "config.json");
  llama["rope_scaling"] = llama["rope_parameters"];
  llama["rope_theta"] = llama["rope_parameters"]["rope_theta"];
  llama["rope_scaling"].erase("rope_theta");
  llama.erase("rope_parameters");
  EXPECT_EQ(read_hf_config(llama, "config.json").shape.rope.inverse_frequency,
            fifth.shape.rope.inverse_frequency);
  llama["rope_scaling"]["type"] = llama["rope_scaling"]["rope_type"];
  llama["rope_scaling"].erase("rope_type");
  EXPECT_EQ(read_hf_config(llama, "config.json").shape.rope.scaling, "llama3");
  llama["rope_scaling"] = nullptr;
  EXPECT_EQ(read_hf_config(llama, "config.json").shape.rope.scaling, "none");

  json gemma = golden("gemma3").at("config");
  const ModelConfig nested = read_hf_config(gemma, "config.json");
  gemma.erase("rope_parameters");
  gemma["rope_theta"] = 1e6;
  gemma["rope_local_base_freq"] = 1e4;
  gemma["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  const ModelConfig flat = read_hf_config(gemma, "config.json");
  for (int layer = 0; layer < flat.shape.layers; ++layer) {
    EXPECT_EQ(flat.shape.rope_of(layer).inverse_frequency,
              nested.shape.rope_of(layer).inverse_frequency);
  }
  gemma.erase("layer_types");
  gemma["sliding_window_pattern"] = 2;
  EXPECT_EQ(read_hf_config(gemma, "config.json").shape.layer_windows, flat.shape.layer_windows);
}

TEST(HfConfig, TextPartOfAMultimodalModel) {
  const json text = golden("gemma3").at("config");
  const json whole = {{"model_type", "gemma3"}, {"text_config", text}};
  EXPECT_EQ(read_hf_config(whole, "c").shape.layers, read_hf_config(text, "c").shape.layers);
}

TEST(HfConfig, UnsupportedFieldsAreNamed) {
  const auto refused = [](const json& changes) {
    json config = golden("llama3").at("config");
    config.merge_patch(changes);
    return test::error_of([&] { read_hf_config(config, "config.json"); });
  };
  const auto names = [&](const json& changes, const char* field) {
    const Error error = refused(changes);
    EXPECT_EQ(error.code(), ErrorCode::unsupported) << changes;
    EXPECT_THAT(error.message(), HasSubstr(field));
    EXPECT_EQ(error.where(), "config.json");
  };
  names({{"model_type", "mamba"}}, "'model_type'");
  names({{"num_local_experts", 8}}, "'num_local_experts'");
  names({{"hidden_act", "relu2"}}, "'hidden_act'");
  names({{"quantization_config", {{"quant_method", "gptq"}}}}, "'quantization_config'");
  names({{"rope_parameters", {{"rope_type", "mrope"}}}}, "'rope_parameters.rope_type'");
  names({{"rope_parameters", {{"full_attention", {{"rope_theta", 1.0}}}}}}, "'rope_parameters'");
  json falcon = golden("falcon").at("config");
  falcon["alibi"] = true;
  EXPECT_THAT(test::error_of([&] { read_hf_config(falcon, "c"); }).message(), HasSubstr("'alibi'"));
  json gemma = golden("gemma3").at("config");
  gemma["layer_types"][1] = "chunked_attention";
  EXPECT_THAT(test::error_of([&] { read_hf_config(gemma, "c"); }).message(),
              HasSubstr("'layer_types'"));
}

TEST(HfConfig, ContradictionsAreNamed) {
  const auto refused = [](const json& changes, const char* field) {
    json config = golden("llama3").at("config");
    config.merge_patch(changes);
    const Error error = test::error_of([&] { read_hf_config(config, "config.json"); });
    EXPECT_EQ(error.code(), ErrorCode::corrupt_file) << changes;
    EXPECT_THAT(error.message(), HasSubstr(field));
  };
  refused({{"num_key_value_heads", 3}}, "4 query heads");
  refused({{"hidden_size", nullptr}}, "'hidden_size'");
  refused({{"hidden_size", -64}}, "'hidden_size'");
  refused({{"num_hidden_layers", 1e9}}, "'num_hidden_layers'");
  refused({{"num_hidden_layers", 18446744073709551615u}}, "'num_hidden_layers'");
  refused({{"rms_norm_eps", "small"}}, "'rms_norm_eps'");
  refused({{"head_dim", 15}}, "rotary");
  refused({{"rope_parameters", {{"factor", -1}}}}, "factor");
  refused({{"rope_parameters", {{"high_freq_factor", 0.5}}}}, "high_freq_factor");
  EXPECT_EQ(test::error_of([] { read_hf_config(json::array(), "c"); }).code(),
            ErrorCode::corrupt_file);
}

TEST(HfModel, MissingPartsOfAFolderAreNamed) {
  const TemporaryFolder folder;
  const auto refused = [&] { return test::error_of([&] { ModelFile::open(folder.path()); }); };
  EXPECT_THAT(refused().message(), HasSubstr("config.json"));
  json file = golden("llama3");
  test::write_golden_folder(file, folder.path());
  const auto model = ModelFile::open(folder.path());
  EXPECT_THAT(test::error_of([&] { model->tokenizer(); }).fix(), HasSubstr("--token-ids"));
  std::filesystem::remove(folder / "model.safetensors");
  EXPECT_THAT(refused().message(), HasSubstr("model.safetensors"));
  auto& tensors = file["tensors"];
  const json last = tensors.back();
  tensors.erase(tensors.size() - 1);
  test::write_golden_folder(file, folder.path());
  EXPECT_THAT(refused().message(), HasSubstr(last.at("name").get<std::string>()));
  tensors.push_back(last);
  json extra = last;
  extra["name"] = "model.layers.0.block_sparse_moe.gate.weight";
  tensors.push_back(extra);
  test::write_golden_folder(file, folder.path());
  EXPECT_THAT(refused().message(), HasSubstr("block_sparse_moe"));
  tensors.erase(tensors.size() - 1);
  file["config"]["attention_bias"] = true;
  test::write_golden_folder(file, folder.path());
  EXPECT_THAT(refused().message(), HasSubstr("'attention_bias'"));
  file["config"]["attention_bias"] = false;
  file["config"]["vocab_size"] = 95;
  test::write_golden_folder(file, folder.path());
  EXPECT_THAT(refused().message(), HasSubstr("[96, 64]"));
  folder.write("config.json", "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(refused().message(), HasSubstr("LFS"));
}

/// FP8 weights times the scale of their block.
TEST(HfModel, EightBitFloatsHaveScales) {
  const TemporaryFolder folder;
  json file = golden("llama3");
  file["config"]["quantization_config"] = {{"quant_method", "fp8"},
                                           {"weight_block_size", {48, 40}}};
  const std::string name = "model.layers.1.self_attn.q_proj.weight";  // [64, 64]
  for (auto tensor = file["tensors"].begin(); tensor != file["tensors"].end(); ++tensor) {
    if (tensor->at("name") == name) {
      file["tensors"].erase(tensor);
      break;
    }
  }
  test::write_golden_folder(file, folder.path());
  std::string bytes;
  for (int cell = 0; cell < 64 * 64; ++cell) {
    bytes += static_cast<char>(cell % 120);
  }
  const auto write = [&](const std::vector<std::int64_t>& shape, const std::vector<float>& scales) {
    test::SafetensorsWriter writer;
    writer.add(name, "F8_E4M3", {64, 64}, bytes);
    writer.add(name + "_scale_inv", "F32", shape, test::float_bytes(scales));
    folder.write("more.safetensors", writer.bytes());
  };
  json index = {{"weight_map", {{name, "more.safetensors"}}}};
  for (const json& tensor : file.at("tensors")) {
    index["weight_map"][tensor.at("name").get<std::string>()] = "model.safetensors";
  }
  folder.write("model.safetensors.index.json", index.dump());
  write({2, 2}, {1, 2, 4, 8});
  const auto model = ModelFile::open(folder.path());
  const auto values = read(*model, Weight::wq, 1);
  for (int row = 0; row < 64; ++row) {
    for (int column = 0; column < 64; ++column) {
      const auto cell = static_cast<std::size_t>(row * 64 + column);
      const int bits = static_cast<int>(cell % 120);
      const double plain =
          bits < 8 ? std::ldexp(bits, -9) : std::ldexp(8 + (bits & 7), (bits >> 3) - 10);
      ASSERT_EQ(values[cell], plain * (row < 48 ? 1 : 4) * (column < 40 ? 1 : 2)) << row;
    }
  }
  EXPECT_EQ(model->weight_dtype(Weight::wq, 1), "F8_E4M3");
  write({1, 2}, {1, 2});
  EXPECT_THAT(test::error_of([&] { ModelFile::open(folder.path()); }).message(),
              HasSubstr("q_proj.weight_scale_inv"));
  test::SafetensorsWriter unscaled;
  unscaled.add(name, "F8_E4M3", {64, 64}, bytes);
  folder.write("more.safetensors", unscaled.bytes());
  EXPECT_THAT(test::error_of([&] { ModelFile::open(folder.path()); }).message(),
              HasSubstr("_scale_inv' is missing"));
}

/// One file or shards: the same weights, the same hash.
TEST(HfModel, ShardsAreOneModel) {
  const TemporaryFolder folder;
  const json file = golden("llama3");
  test::write_golden_folder(file, folder.path());
  const std::string hash = ModelFile::open(folder.path())->hash();
  const auto whole = read(*ModelFile::open(folder.path()), Weight::wk, 1);
  json parts[2] = {file, file};
  json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", json::object()}};
  const std::string names[2] = {"model-00001-of-00002.safetensors",
                                "model-00002-of-00002.safetensors"};
  for (json& part : parts) {
    part["tensors"] = json::array();
  }
  int turn = 0;
  for (const json& tensor : file.at("tensors")) {
    parts[turn % 2]["tensors"].push_back(tensor);
    index["weight_map"][tensor.at("name").get<std::string>()] = names[turn++ % 2];
  }
  for (int part = 0; part < 2; ++part) {
    test::write_golden_folder(parts[part], folder.path());
    std::filesystem::rename(folder / "model.safetensors", folder / names[part]);
  }
  folder.write("model.safetensors.index.json", index.dump());
  const auto sharded = ModelFile::open(folder.path());
  EXPECT_EQ(sharded->hash(), hash);
  EXPECT_EQ(read(*sharded, Weight::wk, 1), whole);

  const auto refused = [&] { return test::error_of([&] { ModelFile::open(folder.path()); }); };
  index["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors";
  folder.write("model.safetensors.index.json", index.dump());
  EXPECT_THAT(refused().message(), HasSubstr("outside the folder"));
  index["weight_map"]["model.norm.weight"] = "model-00003-of-00002.safetensors";
  folder.write("model.safetensors.index.json", index.dump());
  EXPECT_THAT(refused().message(), HasSubstr("model-00003-of-00002.safetensors"));
  index["weight_map"]["model.norm.weight"] = names[0];
  index["weight_map"]["model.other.weight"] = names[1];
  folder.write("model.safetensors.index.json", index.dump());
  EXPECT_THAT(refused().message(), HasSubstr("a shard that lacks it"));
}

}  // namespace
}  // namespace kvscope
