#include <filesystem>

#include "golden_model.h"
#include "golden_run.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

/// The tiny models of golden/families.py as folders on disk: what the reader makes of each family's
/// own config and tensor names is what families.py says it must be.
class FamilyFiles : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    golden_ = read_golden(std::string("family_") + GetParam() + ".json");
    expected_ = std::make_shared<GoldenModel>(golden_);
    folder_ = ::testing::TempDir() + "kvscope_family_" + GetParam();
    expected_->write_folder(golden_, folder_);
    file_ = ModelFile::open(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  nlohmann::json golden_;
  std::string folder_;
  std::shared_ptr<const GoldenModel> expected_;
  std::shared_ptr<const ModelFile> file_;
};

TEST_P(FamilyFiles, ConfigIsWhatTheForwardPassNeeds) {
  const ModelConfig& found = file_->config();
  const ModelConfig& expected = expected_->config();
  EXPECT_EQ(found.shape.layers, expected.shape.layers);
  EXPECT_EQ(found.shape.query_heads, expected.shape.query_heads);
  EXPECT_EQ(found.shape.kv_heads, expected.shape.kv_heads);
  EXPECT_EQ(found.shape.head_dim, expected.shape.head_dim);
  EXPECT_EQ(found.shape.hidden_dim, expected.shape.hidden_dim);
  EXPECT_EQ(found.shape.vocabulary, expected.shape.vocabulary);
  EXPECT_NEAR(found.shape.attention_scale, expected.shape.attention_scale, 1e-9);
  EXPECT_EQ(found.shape.logit_softcap, expected.shape.logit_softcap);
  EXPECT_EQ(found.mlp_dim, expected.mlp_dim);
  EXPECT_EQ(found.output_softcap, expected.output_softcap);
  EXPECT_NEAR(found.norm_epsilon, expected.norm_epsilon, 1e-12);
  EXPECT_EQ(found.norm, expected.norm);
  EXPECT_EQ(found.activation, expected.activation);
  EXPECT_EQ(found.gated_mlp, expected.gated_mlp);
  EXPECT_EQ(found.parallel_mlp, expected.parallel_mlp);
  EXPECT_NEAR(found.embedding_scale, expected.embedding_scale, 1e-9);
  EXPECT_EQ(found.tied_embeddings, expected.tied_embeddings);
  const auto tokens = static_cast<std::int64_t>(golden_.at("ids").size());
  for (int layer = 0; layer < expected.shape.layers; ++layer) {
    EXPECT_EQ(found.shape.window_of(layer), expected.shape.window_of(layer)) << layer;
    const std::vector<double> table = found.shape.rope_of(layer).frequencies(tokens);
    const RopeParameters& rope = expected.shape.rope_of(layer);
    EXPECT_NEAR(found.shape.rope_of(layer).attention_factor, rope.attention_factor, 1e-6);
    ASSERT_EQ(table.size(), rope.inverse_frequency.size()) << layer;
    for (std::size_t pair = 0; pair < table.size(); ++pair) {
      EXPECT_NEAR(table[pair], rope.inverse_frequency[pair], 1e-6 * table[pair]) << layer;
    }
  }
}

TEST_P(FamilyFiles, WeightsAreThoseOfTheirNames) {
  const int last = static_cast<int>(Weight::output_norm_bias);
  for (int layer = -1; layer < expected_->config().shape.layers; ++layer) {
    for (int index = 0; index <= last; ++index) {
      const auto weight = static_cast<Weight>(index);
      const bool of_model = weight == Weight::token_embedding || weight == Weight::output ||
                            weight == Weight::output_norm || weight == Weight::output_norm_bias;
      if (of_model != (layer == -1) || (weight == Weight::output && !expected_->has(weight, -1))) {
        continue;
      }
      ASSERT_EQ(file_->has(weight, layer), expected_->has(weight, layer)) << index << " " << layer;
      if (!expected_->has(weight, layer)) {
        continue;
      }
      const auto shape = expected_->weight_shape(weight, layer);
      ASSERT_EQ(file_->weight_shape(weight, layer), shape) << index << " " << layer;
      std::vector<float> expected(static_cast<std::size_t>(shape.first * shape.second));
      std::vector<float> found(expected.size());
      expected_->read(weight, layer, expected, 1);
      file_->read(weight, layer, found, 1);
      EXPECT_EQ(found, expected) << index << " " << layer;
    }
  }
}

TEST_P(FamilyFiles, RunsLikeTransformersDenseAndKept) {
  const auto ids = golden_.at("ids").get<std::vector<std::int32_t>>();
  const auto expected = golden_.at("logits").back().get<std::vector<double>>();
  for (const bool keep : {false, true}) {
    LiveRunOptions options;
    options.prefill_chunk = 11;
    const auto run =
        LiveRun::start(Model::load(file_, {"cpu", "float32", 2, keep}), prompt_of(ids), options);
    run->prefill(false, nullptr);
    EXPECT_LT(worst(run->logits(), expected), 2e-4 * (1 + run->logits().abs().max().item<double>()))
        << (keep ? "kept" : "dense");
  }
}

/// Fused projections and reordered rows included.
TEST_P(FamilyFiles, StoredBlocksAreTheWeights) {
  int compared = 0;
  for (int layer = 0; layer < file_->config().shape.layers; ++layer) {
    for (const Weight weight :
         {Weight::wq, Weight::wk, Weight::wv, Weight::wo, Weight::mlp_up, Weight::mlp_down}) {
      const auto [rows, columns] = file_->weight_shape(weight, layer);
      const BlockType* type = file_->blocks(weight, layer);
      ASSERT_NE(type, nullptr);
      std::vector<std::uint8_t> bytes(
          static_cast<std::size_t>(rows * columns / type->elements * type->bytes));
      file_->read_blocks(weight, layer, bytes);
      std::vector<float> values(static_cast<std::size_t>(rows * columns));
      type->dequantise(bytes.data(), rows * columns / type->elements, values.data());
      std::vector<float> expected(values.size());
      file_->read(weight, layer, expected, 1);
      EXPECT_EQ(values, expected) << layer;
      ++compared;
      bytes.pop_back();
      EXPECT_EQ(error_of([&] { file_->read_blocks(weight, layer, bytes); }),
                code(ErrorCode::usage));
    }
  }
  EXPECT_GT(compared, 0);
  EXPECT_EQ(file_->blocks(Weight::attention_norm, 0), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Golden, FamilyFiles,
                         ::testing::Values("llama2", "llama3", "llama_ntk", "mistral", "qwen2",
                                           "qwen3", "phi3", "phi3_long", "gemma2", "gemma3",
                                           "smollm3", "falcon"),
                         [](const auto& family) { return std::string(family.param); });

}  // namespace
}  // namespace kvscope::test
