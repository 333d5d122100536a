#include <gtest/gtest.h>

#include <cstring>

#include "gguf.h"
#include "gguf_writer.h"
#include "kvscope/model/model_file.h"
#include "kvscope/model/tokenizer.h"
#include "model_test_support.h"
#include "tiny_model.h"

namespace kvscope {
namespace {

using test::TemporaryFolder;

std::vector<float> read(const ModelFile& file, Weight weight, int layer, int threads = 1) {
  const auto [rows, columns] = file.weight_shape(weight, layer);
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  file.read(weight, layer, values, threads);
  return values;
}

std::vector<float> stored(const GgufFile& file, const std::string& name) {
  const GgufTensor* tensor = file.find(name);
  std::vector<float> values(static_cast<std::size_t>(tensor->elements));
  std::memcpy(values.data(), file.data(*tensor), values.size() * sizeof(float));
  return values;
}

TEST(GgufModel, ShapeFollowsTheMetadata) {
  const auto file = ModelFile::open(test::source_path("data/tiny.gguf"));
  const ModelConfig& config = file->config();
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.shape.layers, 2);
  EXPECT_EQ(config.shape.query_heads, 4);
  EXPECT_EQ(config.shape.kv_heads, 2);
  EXPECT_EQ(config.shape.head_dim, 16);
  EXPECT_EQ(config.shape.hidden_dim, 64);
  EXPECT_EQ(config.shape.vocabulary, 300);
  EXPECT_EQ(config.shape.attention_scale, 0.25);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.activation, Activation::silu);
  EXPECT_EQ(config.shape.rope.dims, 16);
  EXPECT_EQ(config.shape.rope.inverse_frequency.size(), 8u);
  EXPECT_DOUBLE_EQ(config.shape.rope.inverse_frequency[4], 0.01);
  EXPECT_FALSE(file->has(Weight::q_norm, 0));
  EXPECT_FALSE(file->has(Weight::bq, 0));
  EXPECT_TRUE(file->has(Weight::wq, 1));
  EXPECT_FALSE(file->has(Weight::wq, 2));
}

/// Stored row 2i + s of a head is row s * head_dim / 2 + i of the half-split order.
TEST(GgufModel, QueryAndKeyRowsAreUnpermuted) {
  const std::string path = test::source_path("data/tiny.gguf");
  const auto file = ModelFile::open(path);
  const GgufFile raw(path);
  for (const auto& [weight, name, heads] :
       {std::tuple{Weight::wq, "blk.1.attn_q.weight", 4}, {Weight::wk, "blk.1.attn_k.weight", 2}}) {
    const auto ours = read(*file, weight, 1);
    const auto theirs = stored(raw, name);
    for (int head = 0; head < heads; ++head) {
      for (int half = 0; half < 2; ++half) {
        for (int pair = 0; pair < 8; ++pair) {
          const float* row = ours.data() + (head * 16 + half * 8 + pair) * 64;
          const float* source = theirs.data() + (head * 16 + 2 * pair + half) * 64;
          ASSERT_TRUE(std::equal(row, row + 64, source)) << name << " head " << head;
        }
      }
    }
  }
  EXPECT_EQ(read(*file, Weight::wv, 0), stored(raw, "blk.0.attn_v.weight"));
  EXPECT_EQ(read(*file, Weight::output, -1), stored(raw, "token_embd.weight"));
}

TEST(GgufModel, ThreadsChangeNothing) {
  const auto file = ModelFile::open(test::source_path("data/tiny.gguf"));
  EXPECT_EQ(read(*file, Weight::token_embedding, -1, 1),
            read(*file, Weight::token_embedding, -1, 7));
  std::vector<float> small(3);
  EXPECT_EQ(test::error_of([&] { file->read(Weight::wq, 0, small, 1); }).code(), ErrorCode::usage);
}

TEST(GgufModel, HashFollowsTheWeights) {
  const TemporaryFolder folder;
  test::write_tiny_model(folder / "a.gguf", {});
  test::write_tiny_model(folder / "b.gguf", {});
  test::TinyModelOptions other;
  other.seed = 8;
  test::write_tiny_model(folder / "c.gguf", other);
  const auto hash = [&](const char* name) { return ModelFile::open(folder / name)->hash(); };
  EXPECT_EQ(hash("a.gguf"), hash("b.gguf"));
  EXPECT_NE(hash("a.gguf"), hash("c.gguf"));
  EXPECT_EQ(hash("a.gguf").size(), 16u);
}

/// Replaces the first occurrence of `from` by `to`, which has the same length.
std::string changed(std::string bytes, const std::string& from, const std::string& to) {
  const std::size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  EXPECT_EQ(from.size(), to.size());
  return bytes.replace(at, from.size(), to);
}

template <typename T>
std::string keyed(const std::string& key, std::uint32_t type, T value) {
  return key + std::string(reinterpret_cast<const char*>(&type), 4) +
         std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

TEST(GgufModel, ContradictionsAreRefusedByName) {
  const TemporaryFolder folder;
  const std::string bytes = test::read_file(test::source_path("data/tiny.gguf"));
  const auto refused = [&](const std::string& variant) {
    return test::error_of([&] { ModelFile::open(folder.write("x.gguf", variant)); });
  };
  const auto size = [&](const std::string& key, std::uint32_t from, std::uint32_t to) {
    return refused(changed(bytes, keyed(key, 4, from), keyed(key, 4, to))).message();
  };
  using testing::HasSubstr;
  EXPECT_THAT(
      refused(
          changed(bytes,
                  "general.architecture" + std::string("\x08\0\0\0\x05\0\0\0\0\0\0\0llama", 17),
                  "general.architecture" + std::string("\x08\0\0\0\x05\0\0\0\0\0\0\0mamba", 17)))
          .message(),
      HasSubstr("'mamba'"));
  EXPECT_THAT(size("llama.attention.head_count_kv", 2, 3), HasSubstr("4 query heads"));
  EXPECT_THAT(size("llama.attention.head_count", 4, 0), HasSubstr("attention.head_count"));
  EXPECT_THAT(size("llama.embedding_length", 64, 128), HasSubstr("token_embd.weight"));
  EXPECT_THAT(size("llama.feed_forward_length", 96, 97), HasSubstr("ffn_gate"));
  EXPECT_THAT(size("llama.block_count", 2, 3), HasSubstr("blk.2.attn_norm.weight"));
  EXPECT_THAT(size("llama.block_count", 2, 1), HasSubstr("blk.1."));
  EXPECT_THAT(size("llama.block_count", 2, 0xFFFFFFFF), HasSubstr("block_count"));
  EXPECT_THAT(size("llama.rope.dimension_count", 16, 15), HasSubstr("rotary"));
  EXPECT_THAT(size("llama.rope.dimension_count", 16, 18), HasSubstr("rope.dimension_count"));
  EXPECT_THAT(refused(changed(bytes, "output_norm.weight", "output_gnom.weight")).message(),
              HasSubstr("output_norm.weight"));
  EXPECT_THAT(refused(changed(bytes, keyed("llama.rope.freq_base", 6, 10000.0f),
                              keyed("llama.rope.freq_base", 6, -1.0f)))
                  .message(),
              HasSubstr("rope.freq_base"));
  EXPECT_THAT(refused(changed(bytes, keyed("llama.attention.layer_norm_rms_epsilon", 6, 1e-5f),
                              keyed("llama.attention.layer_norm_rms_epsilon", 6, NAN)))
                  .message(),
              HasSubstr("epsilon"));
}

TEST(GgufModel, TokenizerTroubleIsNamed) {
  const TemporaryFolder folder;
  const std::string bytes = test::read_file(test::source_path("data/tiny.gguf"));
  const auto refused = [&](const std::string& from, const std::string& to) {
    const auto file = ModelFile::open(folder.write("x.gguf", changed(bytes, from, to)));
    return test::error_of([&] { file->tokenizer(); });
  };
  using testing::HasSubstr;
  EXPECT_THAT(refused("smollm", "smallm").message(), HasSubstr("'smallm'"));
  EXPECT_THAT(refused("tokenizer.ggml.model", "tokenizer.ggml.medol").fix(),
              HasSubstr("--token-ids"));
  EXPECT_THAT(refused("tokenizer.ggml.tokens", "tokenizer.ggml.nekots").message(),
              HasSubstr("tokenizer.ggml.tokens"));
  EXPECT_THAT(refused(keyed("tokenizer.ggml.bos_token_id", 4, 1u),
                      keyed("tokenizer.ggml.bos_token_id", 4, 300u))
                  .message(),
              HasSubstr("300"));
}

}  // namespace
}  // namespace kvscope
