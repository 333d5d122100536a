#include "gguf_converter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "hf_folder.h"

namespace kvscope::test {
namespace {

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

void add_factors(GgufConverter& converter, const nlohmann::json& config) {
  const nlohmann::json& rope = config.at("rope_parameters");
  for (const char* kind : {"long", "short"}) {
    const auto factors = rope.at(std::string(kind) + "_factor").get<std::vector<float>>();
    converter.writer.tensor("rope_factors_" + std::string(kind) + ".weight", {factors.size()}, 0,
                            float_bytes(factors));
  }
  converter.size("rope.scaling.original_context_length",
                 rope.at("original_max_position_embeddings").get<int>());
}

}  // namespace

std::vector<float> read_weight(const ModelFile& file, Weight weight, int layer) {
  const auto [rows, columns] = file.weight_shape(weight, layer);
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  file.read(weight, layer, values);
  return values;
}

GgufConverter::GgufConverter(const ModelFile& file, std::string architecture, GgufEncoding matrices)
    : file_(file),
      config_(file.config()),
      prefix_(std::move(architecture) + "."),
      matrices_(matrices) {
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

void GgufConverter::size(const char* key, int value) {
  writer.integer(prefix_ + key, static_cast<std::uint32_t>(value));
}
void GgufConverter::real(const char* key, double value) {
  writer.real(prefix_ + key, static_cast<float>(value));
}
void GgufConverter::text(const char* key, const std::string& value) {
  writer.text(prefix_ + key, value);
}

void GgufConverter::tensor(const std::string& name, const std::vector<Weight>& parts, int layer) {
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
    std::vector<float> values = read_weight(file_, part, layer);
    const bool rotated =
        part == Weight::wq || part == Weight::wk || part == Weight::bq || part == Weight::bk;
    if (rotated && (prefix_ == "llama." || prefix_ == "smollm3.")) {
      values = neighbouring(values, config_.shape.head_dim, columns);
    }
    all.insert(all.end(), values.begin(), values.end());
  }
  using Axes = std::vector<std::uint64_t>;
  if (columns == 1 || matrices_.bytes == nullptr) {
    writer.tensor(name, columns == 1 ? Axes{rows} : Axes{rows, columns}, 0, float_bytes(all));
  } else {
    writer.tensor(name, Axes{rows, columns}, matrices_.type, matrices_.bytes(all));
  }
}

void GgufConverter::layer(int index) {
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

void GgufConverter::all() {
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

void add_metadata(GgufConverter& converter, const std::string& family, const ModelConfig& config,
                  const nlohmann::json& hf) {
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
    converter.writer.tensor("rope_freqs.weight", {divisors.size()}, 0, float_bytes(divisors));
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

}  // namespace kvscope::test
