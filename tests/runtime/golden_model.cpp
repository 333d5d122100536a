#include "golden_model.h"

#include <filesystem>
#include <fstream>

#include "kvscope/core/error.h"

namespace kvscope::test {
namespace {

/// `count` numbers in [-1, 1) from the `first` on: splitmix64 over FNV-1a of the name plus the
/// index.
void fill_uniform(const std::string& name, std::int64_t first, std::span<float> out) {
  std::uint64_t seed = 14695981039346656037u;
  for (const char byte : name) {
    seed = (seed ^ static_cast<unsigned char>(byte)) * 1099511628211u;
  }
  std::uint64_t state = seed + static_cast<std::uint64_t>(first) * 0x9E3779B97F4A7C15u;
  for (float& value : out) {
    state += 0x9E3779B97F4A7C15u;
    std::uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z = z ^ (z >> 31);
    value = static_cast<float>(z >> 40) / 8388608.0f - 1.0f;
  }
}

RopeParameters read_rope(const nlohmann::json& expected) {
  RopeParameters rope;
  rope.inverse_frequency = expected.at("inverse_frequency").get<std::vector<double>>();
  rope.dims = 2 * static_cast<int>(rope.inverse_frequency.size());
  rope.attention_factor = expected.at("attention_factor").get<double>();
  return rope;
}

}  // namespace

GoldenModel::GoldenModel(const nlohmann::json& golden) {
  config_.architecture = golden.at("config").at("model_type").get<std::string>();
  config_.name = golden.at("family").get<std::string>();
  config_.weights_dtype = "F32";
  sandwich_ = config_.architecture.starts_with("gemma");
  read_config(golden.at("expected"));
  for (const nlohmann::json& entry : golden.at("tensors")) {
    const auto shape = entry.at("shape").get<std::vector<std::int64_t>>();
    tensors_[entry.at("name").get<std::string>()] = {shape[0], shape.size() > 1 ? shape[1] : 1,
                                                     entry.at("scale").get<float>(),
                                                     entry.at("offset").get<float>()};
  }
  const bool falcon = config_.architecture == "falcon";
  add(Weight::token_embedding, -1,
      falcon ? "transformer.word_embeddings.weight" : "model.embed_tokens.weight");
  add(Weight::output_norm, -1, falcon ? "transformer.ln_f.weight" : "model.norm.weight");
  add(Weight::output_norm_bias, -1, "transformer.ln_f.bias");
  add(Weight::output, -1, "lm_head.weight");
  for (int layer = 0; layer < config_.shape.layers; ++layer) {
    if (falcon) {
      add_falcon_layer(layer);
    } else {
      add_layer(layer);
    }
  }
}

void GoldenModel::read_config(const nlohmann::json& expected) {
  const auto number = [&](const char* name) { return expected.at(name).get<int>(); };
  const auto real = [&](const char* name) { return expected.at(name).get<double>(); };
  const auto flag = [&](const char* name) { return expected.at(name).get<bool>(); };
  ModelShape& shape = config_.shape;
  shape.layers = number("layers");
  shape.query_heads = number("query_heads");
  shape.kv_heads = number("kv_heads");
  shape.head_dim = number("head_dim");
  shape.hidden_dim = number("hidden_dim");
  shape.vocabulary = number("vocabulary");
  shape.attention_scale = real("attention_scale");
  shape.logit_softcap = real("logit_softcap");
  shape.layer_windows = expected.at("layer_windows").get<std::vector<int>>();
  for (const nlohmann::json& rope : expected.at("ropes")) {
    shape.layer_ropes.push_back(read_rope(rope));
  }
  shape.rope = shape.layer_ropes.front();
  config_.mlp_dim = number("mlp_dim");
  config_.context_length = 256;
  config_.norm_epsilon = real("norm_epsilon");
  config_.output_softcap = real("output_softcap");
  config_.embedding_scale = real("embedding_scale");
  config_.tied_embeddings = flag("tied_embeddings");
  config_.gated_mlp = flag("gated_mlp");
  config_.parallel_mlp = flag("parallel_mlp");
  config_.norm = expected.at("norm") == "layer" ? NormKind::layer : NormKind::rms;
  const auto activation = expected.at("activation").get<std::string>();
  config_.activation = activation == "silu"        ? Activation::silu
                       : activation == "gelu_tanh" ? Activation::gelu_tanh
                                                   : Activation::gelu;
}

void GoldenModel::add(Weight weight, int layer, const std::string& tensor, std::int64_t first,
                      std::int64_t rows) {
  if (tensors_.contains(tensor)) {
    sources_[{weight, layer}] = {tensor, first, rows};
  }
}

void GoldenModel::add_layer(int layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::int64_t dim = config_.shape.head_dim;
  const std::int64_t queries = config_.shape.query_heads * dim;
  const std::int64_t keys = config_.shape.kv_heads * dim;
  const std::string attention = prefix + "self_attn.";
  add(Weight::attention_norm, layer, prefix + "input_layernorm.weight");
  add(Weight::wq, layer, attention + "qkv_proj.weight", 0, queries);
  add(Weight::wk, layer, attention + "qkv_proj.weight", queries, keys);
  add(Weight::wv, layer, attention + "qkv_proj.weight", queries + keys, keys);
  add(Weight::wq, layer, attention + "q_proj.weight");
  add(Weight::wk, layer, attention + "k_proj.weight");
  add(Weight::wv, layer, attention + "v_proj.weight");
  add(Weight::wo, layer, attention + "o_proj.weight");
  add(Weight::bq, layer, attention + "q_proj.bias");
  add(Weight::bk, layer, attention + "k_proj.bias");
  add(Weight::bv, layer, attention + "v_proj.bias");
  add(Weight::bo, layer, attention + "o_proj.bias");
  add(Weight::q_norm, layer, attention + "q_norm.weight");
  add(Weight::k_norm, layer, attention + "k_norm.weight");
  add(sandwich_ ? Weight::post_attention_norm : Weight::mlp_norm, layer,
      prefix + "post_attention_layernorm.weight");
  add(Weight::mlp_norm, layer, prefix + "pre_feedforward_layernorm.weight");
  add(Weight::post_mlp_norm, layer, prefix + "post_feedforward_layernorm.weight");
  add(Weight::mlp_gate, layer, prefix + "mlp.gate_up_proj.weight", 0, config_.mlp_dim);
  add(Weight::mlp_up, layer, prefix + "mlp.gate_up_proj.weight", config_.mlp_dim, config_.mlp_dim);
  add(Weight::mlp_gate, layer, prefix + "mlp.gate_proj.weight");
  add(Weight::mlp_up, layer, prefix + "mlp.up_proj.weight");
  add(Weight::mlp_down, layer, prefix + "mlp.down_proj.weight");
}

void GoldenModel::add_falcon_layer(int layer) {
  const std::string prefix = "transformer.h." + std::to_string(layer) + ".";
  const std::int64_t dim = config_.shape.head_dim;
  const std::int64_t queries = config_.shape.query_heads * dim;
  const std::string fused = prefix + "self_attention.query_key_value.weight";
  add(Weight::attention_norm, layer, prefix + "input_layernorm.weight");
  add(Weight::attention_norm_bias, layer, prefix + "input_layernorm.bias");
  add(Weight::wq, layer, fused, 0, queries);
  add(Weight::wk, layer, fused, queries, dim);
  add(Weight::wv, layer, fused, queries + dim, dim);
  add(Weight::wo, layer, prefix + "self_attention.dense.weight");
  add(Weight::mlp_up, layer, prefix + "mlp.dense_h_to_4h.weight");
  add(Weight::mlp_down, layer, prefix + "mlp.dense_4h_to_h.weight");
}

std::pair<std::int64_t, std::int64_t> GoldenModel::weight_shape(Weight weight, int layer) const {
  const Source& source = sources_.at({weight, layer});
  const Tensor& tensor = tensors_.at(source.tensor);
  return {source.rows > 0 ? source.rows : tensor.rows, tensor.columns};
}

void GoldenModel::read(Weight weight, int layer, std::span<float> out, int) const {
  const auto [rows, columns] = weight_shape(weight, layer);
  KVSCOPE_CHECK(out.size() == static_cast<std::size_t>(rows * columns), ErrorCode::usage,
                "wrong size");
  const Source& source = sources_.at({weight, layer});
  const Tensor& tensor = tensors_.at(source.tensor);
  const bool norm = columns == 1 && source.tensor.find("norm") != std::string::npos;
  const float offset = tensor.offset + (norm && sandwich_ ? 1.0f : 0.0f);
  fill_uniform(source.tensor, source.first * columns, out);
  for (float& value : out) {
    value = value * tensor.scale + offset;
  }
}

void GoldenModel::write_folder(const nlohmann::json& golden, const std::string& folder) const {
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << golden.at("config").dump(1);
  nlohmann::json header;
  std::vector<float> data;
  for (const nlohmann::json& entry : golden.at("tensors")) {
    const auto name = entry.at("name").get<std::string>();
    const Tensor& tensor = tensors_.at(name);
    const std::size_t first = data.size();
    data.resize(first + static_cast<std::size_t>(tensor.rows * tensor.columns));
    const std::span<float> values = std::span(data).subspan(first);
    fill_uniform(name, 0, values);
    for (float& value : values) {
      value = value * tensor.scale + tensor.offset;
    }
    header[name] = {{"dtype", "F32"},
                    {"shape", entry.at("shape")},
                    {"data_offsets", {4 * first, 4 * data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::ofstream file(folder + "/model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.write(reinterpret_cast<const char*>(data.data()),
             static_cast<std::streamsize>(4 * data.size()));
}

}  // namespace kvscope::test
