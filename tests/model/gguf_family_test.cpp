#include <gtest/gtest.h>

#include <filesystem>

#include "gguf_converter.h"
#include "hf_folder.h"
#include "kvscope/model/model_file.h"
#include "model_test_support.h"

namespace kvscope {
namespace {

using nlohmann::json;
using test::add_metadata;
using test::GgufConverter;
using test::TemporaryFolder;
using testing::HasSubstr;

class TwoFormats : public testing::TestWithParam<std::pair<const char*, const char*>> {};

/// The same model from GGUF and from safetensors: the same numbers under the same names.
TEST_P(TwoFormats, SameConfigSameWeights) {
  const auto [family, architecture] = GetParam();
  const TemporaryFolder folder;
  const json golden = json::parse(
      test::read_file(test::source_path(std::string("tests/golden/family_") + family + ".json")));
  test::write_golden_folder(golden, folder.path());
  const auto hf = ModelFile::open(folder.path());
  GgufConverter converter(*hf, architecture);
  add_metadata(converter, family, hf->config(), golden.at("config"));
  converter.all();
  const auto gguf = ModelFile::open(folder.write("model.gguf", converter.writer.bytes()));
  const ModelConfig& ours = gguf->config();
  const ModelConfig& theirs = hf->config();
  EXPECT_EQ(ours.shape.layers, theirs.shape.layers);
  EXPECT_EQ(ours.shape.query_heads, theirs.shape.query_heads);
  EXPECT_EQ(ours.shape.kv_heads, theirs.shape.kv_heads);
  EXPECT_EQ(ours.shape.head_dim, theirs.shape.head_dim);
  EXPECT_EQ(ours.shape.hidden_dim, theirs.shape.hidden_dim);
  EXPECT_EQ(ours.shape.vocabulary, theirs.shape.vocabulary);
  EXPECT_EQ(ours.mlp_dim, theirs.mlp_dim);
  EXPECT_EQ(ours.activation, theirs.activation);
  EXPECT_EQ(ours.norm, theirs.norm);
  EXPECT_EQ(ours.norm_rounds_last, theirs.norm_rounds_last);
  EXPECT_EQ(ours.gated_mlp, theirs.gated_mlp);
  EXPECT_EQ(ours.parallel_mlp, theirs.parallel_mlp);
  EXPECT_EQ(ours.tied_embeddings, theirs.tied_embeddings);
  EXPECT_FLOAT_EQ(static_cast<float>(ours.norm_epsilon), static_cast<float>(theirs.norm_epsilon));
  EXPECT_DOUBLE_EQ(ours.embedding_scale, theirs.embedding_scale);
  EXPECT_DOUBLE_EQ(ours.shape.logit_softcap, theirs.shape.logit_softcap);
  EXPECT_DOUBLE_EQ(ours.output_softcap, theirs.output_softcap);
  for (int layer = 0; layer < ours.shape.layers; ++layer) {
    if (std::string(family) !=
        "smollm3") {  // GGUF fixes every fourth layer, the golden every other
      const auto a = ours.shape.rope_of(layer).frequencies(48);
      const auto b = theirs.shape.rope_of(layer).frequencies(48);
      ASSERT_EQ(a.size(), b.size());
      for (std::size_t pair = 0; pair < a.size(); ++pair) {
        EXPECT_NEAR(a[pair], b[pair], 1e-6 * b[pair]);
      }
      EXPECT_NEAR(ours.shape.rope_of(layer).attention_factor,
                  theirs.shape.rope_of(layer).attention_factor, 1e-6);
    }
    EXPECT_EQ(ours.shape.window_of(layer), theirs.shape.window_of(layer));
  }
  int compared = 0;
  for (int layer = -1; layer < ours.shape.layers; ++layer) {
    for (int weight = 0; weight <= static_cast<int>(Weight::output_norm_bias); ++weight) {
      const auto which = static_cast<Weight>(weight);
      ASSERT_EQ(gguf->has(which, layer), hf->has(which, layer)) << weight << " layer " << layer;
      if (hf->has(which, layer)) {
        EXPECT_EQ(test::read_weight(*gguf, which, layer), test::read_weight(*hf, which, layer))
            << weight;
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 20);
}

using Pair = std::pair<const char*, const char*>;
INSTANTIATE_TEST_SUITE_P(Families, TwoFormats,
                         testing::Values(Pair{"llama2", "llama"}, Pair{"llama3", "llama"},
                                         Pair{"qwen2", "qwen2"}, Pair{"qwen3", "qwen3"},
                                         Pair{"phi3", "phi3"}, Pair{"gemma2", "gemma2"},
                                         Pair{"smollm3", "smollm3"}, Pair{"falcon", "falcon"}));

TEST(GgufFamilies, Gemma3AlternatesWindowsAndBases) {
  const std::string path = test::source_path("models/gemma3-270m.gguf");
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "needs a real model: ./run fetch gemma3-270m";
  }
  const auto file = ModelFile::open(path);
  const ModelConfig& config = file->config();
  EXPECT_EQ(config.architecture, "gemma3");
  EXPECT_EQ(config.shape.window_of(4), 512);
  EXPECT_EQ(config.shape.window_of(5), 0);
  EXPECT_EQ(config.shape.rope_of(4).base, 10000.0);
  EXPECT_EQ(config.shape.rope_of(5).base, 1000000.0);
  EXPECT_DOUBLE_EQ(config.shape.attention_scale, 1.0 / 16);
  EXPECT_TRUE(file->has(Weight::q_norm, 0));
  EXPECT_TRUE(file->has(Weight::post_mlp_norm, 17));
  EXPECT_TRUE(config.tied_embeddings);
}

TEST(GgufFamilies, ExpertsAreRefusedByName) {
  const TemporaryFolder folder;
  test::GgufWriter writer;
  writer.text("general.architecture", "llama");
  writer.integer("llama.expert_count", 8);
  EXPECT_THAT(
      test::error_of([&] { ModelFile::open(folder.write("x.gguf", writer.bytes())); }).message(),
      HasSubstr("expert_count"));
}

/// A tiny model cut into two files, and everything that can be wrong with them.
TEST(GgufParts, AreOneModel) {
  const TemporaryFolder folder;
  const json golden =
      json::parse(test::read_file(test::source_path("tests/golden/family_qwen2.json")));
  test::write_golden_folder(golden, folder.path());
  const auto hf = ModelFile::open(folder.path());
  const auto write = [&](int part, int parts, int first_layer, int last_layer, const char* name) {
    GgufConverter converter(*hf, "qwen2");
    converter.writer.integer("split.no", static_cast<std::uint32_t>(part));
    converter.writer.integer("split.count", static_cast<std::uint32_t>(parts));
    if (first_layer == 0) {
      converter.tensor("token_embd.weight", {Weight::token_embedding}, -1);
      converter.tensor("output_norm.weight", {Weight::output_norm}, -1);
      converter.tensor("output.weight", {Weight::output}, -1);
    }
    for (int layer = first_layer; layer < last_layer; ++layer) {
      converter.layer(layer);
    }
    return folder.write(name, converter.writer.bytes());
  };
  const std::string first = write(0, 2, 0, 1, "m-00001-of-00002.gguf");
  const auto refused = [&](const std::string& path) {
    return test::error_of([&] { ModelFile::open(path); });
  };
  EXPECT_EQ(refused(first).code(), ErrorCode::io) << "the second part is missing";
  const std::string second = write(1, 2, 1, 3, "m-00002-of-00002.gguf");
  const auto file = ModelFile::open(first);
  EXPECT_EQ(test::read_weight(*file, Weight::wk, 2), test::read_weight(*hf, Weight::wk, 2));
  EXPECT_THAT(refused(second).message(), HasSubstr("part 2 of 2"));
  write(0, 2, 1, 3, "m-00002-of-00002.gguf");
  EXPECT_THAT(refused(first).message(), HasSubstr("not part 2"));
  write(1, 2, 0, 3, "m-00002-of-00002.gguf");
  EXPECT_THAT(refused(first).message(), HasSubstr("two parts"));
  std::filesystem::rename(first, folder / "renamed.gguf");
  EXPECT_THAT(refused(folder / "renamed.gguf").message(), HasSubstr("does not end in"));
}

}  // namespace
}  // namespace kvscope
