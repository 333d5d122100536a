#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "gguf_writer.h"
#include "hf_folder.h"
#include "kvscope/model/model_file.h"
#include "model_test_support.h"

namespace kvscope {
namespace {

using nlohmann::json;
using test::TemporaryFolder;
using testing::HasSubstr;

std::vector<float> read(const ModelFile& file, Weight weight, int layer) {
  const auto [rows, columns] = file.weight_shape(weight, layer);
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  file.read(weight, layer, values);
  return values;
}

/// Rows of each head from halves to neighbouring pairs, as llama.cpp's converter writes them.
std::vector<float> neighbouring(const std::vector<float>& values, int head_dim,
                                std::size_t columns) {
  std::vector<float> out(values.size());
  const std::size_t rows = values.size() / columns;
  const auto head = static_cast<std::size_t>(head_dim);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t within = row % head;
    const std::size_t to = row - within + 2 * (within % (head / 2)) + within / (head / 2);
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(row * columns), columns,
                out.begin() + static_cast<std::ptrdiff_t>(to * columns));
  }
  return out;
}

/// Writes a model, opened from a folder, as llama.cpp's converter would.
class Converter {
 public:
  Converter(const ModelFile& file, std::string architecture)
      : file_(file), config_(file.config()), prefix_(std::move(architecture) + ".") {
    writer.text("general.architecture", prefix_.substr(0, prefix_.size() - 1));
    const ModelShape& shape = config_.shape;
    size("block_count", shape.layers);
    size("embedding_length", shape.hidden_dim);
    size("feed_forward_length", config_.mlp_dim);
    size("attention.head_count", shape.query_heads);
    size("attention.head_count_kv", shape.kv_heads);
    size("attention.key_length", shape.head_dim);
    size("attention.value_length", shape.head_dim);
    size("context_length", config_.context_length);
    real("rope.freq_base", shape.rope.base);
    size("rope.dimension_count", shape.rope.dims);
    real(config_.norm == NormKind::layer ? "attention.layer_norm_epsilon"
                                         : "attention.layer_norm_rms_epsilon",
         config_.norm_epsilon);
  }

  void size(const char* key, int value) {
    writer.integer(prefix_ + key, static_cast<std::uint32_t>(value));
  }
  void real(const char* key, double value) {
    writer.real(prefix_ + key, static_cast<float>(value));
  }
  void text(const char* key, const std::string& value) { writer.text(prefix_ + key, value); }

  void tensor(const std::string& name, const std::vector<Weight>& parts, int layer) {
    std::vector<float> all;
    std::uint64_t rows = 0;
    std::uint64_t columns = 1;
    for (const Weight part : parts) {
      if (!file_.has(part, layer)) {
        return;
      }
      const auto shape = file_.weight_shape(part, layer);
      rows += static_cast<std::uint64_t>(shape.first);
      columns = static_cast<std::uint64_t>(shape.second);
      std::vector<float> values = read(file_, part, layer);
      const bool rotated =
          part == Weight::wq || part == Weight::wk || part == Weight::bq || part == Weight::bk;
      if (rotated && (prefix_ == "llama." || prefix_ == "smollm3.")) {
        values = neighbouring(values, config_.shape.head_dim, columns);
      }
      all.insert(all.end(), values.begin(), values.end());
    }
    using Axes = std::vector<std::uint64_t>;
    writer.tensor(name, columns == 1 ? Axes{rows} : Axes{rows, columns}, 0, test::float_bytes(all));
  }

  void layer(int index) {
    const std::string stem = "blk." + std::to_string(index) + ".";
    const bool fused = prefix_ == "phi3." || prefix_ == "falcon.";
    const auto add = [&](const char* name, const std::vector<Weight>& parts) {
      tensor(stem + name, parts, index);
    };
    add("attn_norm.weight", {Weight::attention_norm});
    add("attn_norm.bias", {Weight::attention_norm_bias});
    if (fused) {
      add("attn_qkv.weight", {Weight::wq, Weight::wk, Weight::wv});
    } else {
      add("attn_q.weight", {Weight::wq});
      add("attn_q.bias", {Weight::bq});
      add("attn_k.weight", {Weight::wk});
      add("attn_k.bias", {Weight::bk});
      add("attn_v.weight", {Weight::wv});
      add("attn_v.bias", {Weight::bv});
    }
    add("attn_q_norm.weight", {Weight::q_norm});
    add("attn_k_norm.weight", {Weight::k_norm});
    add("attn_output.weight", {Weight::wo});
    add("attn_output.bias", {Weight::bo});
    add("post_attention_norm.weight", {Weight::post_attention_norm});
    add("ffn_norm.weight", {Weight::mlp_norm});
    if (prefix_ == "phi3.") {
      add("ffn_up.weight", {Weight::mlp_gate, Weight::mlp_up});
    } else {
      add("ffn_gate.weight", {Weight::mlp_gate});
      add("ffn_up.weight", {Weight::mlp_up});
    }
    add("ffn_down.weight", {Weight::mlp_down});
    add("post_ffw_norm.weight", {Weight::post_mlp_norm});
  }

  void all() {
    tensor("token_embd.weight", {Weight::token_embedding}, -1);
    tensor("output_norm.weight", {Weight::output_norm}, -1);
    tensor("output_norm.bias", {Weight::output_norm_bias}, -1);
    if (!config_.tied_embeddings) {
      tensor("output.weight", {Weight::output}, -1);
    }
    for (int index = 0; index < config_.shape.layers; ++index) {
      layer(index);
    }
  }

  test::GgufWriter writer;

 private:
  const ModelFile& file_;
  const ModelConfig& config_;
  std::string prefix_;
};

void add_factors(Converter& converter, const json& config) {
  const json& rope = config.at("rope_parameters");
  for (const char* kind : {"long", "short"}) {
    const auto factors = rope.at(std::string(kind) + "_factor").get<std::vector<float>>();
    converter.writer.tensor("rope_factors_" + std::string(kind) + ".weight", {factors.size()}, 0,
                            test::float_bytes(factors));
  }
  converter.size("rope.scaling.original_context_length",
                 rope.at("original_max_position_embeddings").get<int>());
}

/// The metadata by which GGUF says what config.json says with other words.
void add_metadata(Converter& converter, const std::string& family, const ModelConfig& config,
                  const json& hf) {
  const RopeParameters& rope = config.shape.rope;
  if (family == "llama2") {
    converter.text("rope.scaling.type", "linear");
    converter.real("rope.scaling.factor", 4.0);
  } else if (family == "llama3") {  // divisors of the angles, in a tensor
    std::vector<float> divisors;
    for (std::size_t pair = 0; pair < rope.inverse_frequency.size(); ++pair) {
      const double plain = std::pow(rope.base, -2.0 * static_cast<double>(pair) / rope.dims);
      divisors.push_back(static_cast<float>(plain / rope.inverse_frequency[pair]));
    }
    converter.writer.tensor("rope_freqs.weight", {divisors.size()}, 0, test::float_bytes(divisors));
  } else if (family == "qwen3") {
    converter.text("rope.scaling.type", "yarn");
    converter.real("rope.scaling.factor", 4.0);
    converter.size("rope.scaling.original_context_length", 64);
  } else if (family == "phi3") {
    add_factors(converter, hf);
  } else if (family == "gemma2") {
    converter.size("attention.sliding_window", 8);
    converter.real("attn_logit_softcapping", config.shape.logit_softcap);
    converter.real("final_logit_softcapping", config.output_softcap);
  }
}

class TwoFormats : public testing::TestWithParam<std::pair<const char*, const char*>> {};

/// The same model from GGUF and from safetensors: the same numbers under the same names.
TEST_P(TwoFormats, SameConfigSameWeights) {
  const auto [family, architecture] = GetParam();
  const TemporaryFolder folder;
  const json golden = json::parse(
      test::read_file(test::source_path(std::string("tests/golden/family_") + family + ".json")));
  test::write_golden_folder(golden, folder.path());
  const auto hf = ModelFile::open(folder.path());
  Converter converter(*hf, architecture);
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
        EXPECT_EQ(read(*gguf, which, layer), read(*hf, which, layer)) << weight;
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
    Converter converter(*hf, "qwen2");
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
  EXPECT_EQ(read(*file, Weight::wk, 2), read(*hf, Weight::wk, 2));
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
