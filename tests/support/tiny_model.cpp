#include "tiny_model.h"

#include <cmath>
#include <fstream>
#include <vector>

#include "gguf_writer.h"

namespace kvscope::test {
namespace {

constexpr std::uint32_t type_f32 = 0;
constexpr const char* chat_template =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// splitmix64: the standard distributions differ between libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  double uniform() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }
  /// Sum of uniforms: close enough to a normal, and the same on every machine.
  float normal() {
    double sum = -6;
    for (int draw = 0; draw < 12; ++draw) {
      sum += uniform();
    }
    return static_cast<float>(sum);
  }

 private:
  std::uint64_t state_;
};

std::string utf8(unsigned point) {
  if (point < 0x80) {
    return {static_cast<char>(point)};
  }
  return {static_cast<char>(0xC0 | (point >> 6)), static_cast<char>(0x80 | (point & 0x3F))};
}

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::string> merges;
  std::vector<std::int32_t> types;
};

Vocabulary make_vocabulary() {
  Vocabulary vocabulary;
  unsigned next = 256;
  std::vector<std::string> letters;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool prints =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    letters.push_back(utf8(prints ? byte : next++));
  }
  vocabulary.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  vocabulary.types = {3, 3, 3};
  for (const std::string& letter : letters) {
    vocabulary.tokens.push_back(letter);
    vocabulary.types.push_back(1);
  }
  const std::string space = letters[' '];
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"t", "h"},   {"th", "e"}, {space, "the"}, {"i", "n"},   {"a", "n"},
      {space, "a"}, {"e", "r"},  {"o", "n"},     {space, "s"}, {"r", "e"}};
  for (const auto& [left, right] : pairs) {
    vocabulary.merges.push_back(left + " " + right);
    vocabulary.tokens.push_back(left + right);
    vocabulary.types.push_back(1);
  }
  while (vocabulary.tokens.size() < 300) {
    vocabulary.tokens.push_back("<unused" + std::to_string(vocabulary.tokens.size()) + ">");
    vocabulary.types.push_back(5);
  }
  return vocabulary;
}

std::string matrix(Random& random, std::uint64_t rows, std::uint64_t columns, double scale) {
  std::vector<float> values(rows * columns);
  for (float& value : values) {
    value = random.normal() * static_cast<float>(scale);
  }
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::string norm(Random& random, std::uint64_t size) {
  std::vector<float> values(size);
  for (float& value : values) {
    value = 1.0f + 0.1f * random.normal();
  }
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

}  // namespace

void add_tiny_tokenizer(GgufWriter& writer) {
  const Vocabulary vocabulary = make_vocabulary();
  writer.text("tokenizer.ggml.model", "gpt2");
  writer.text("tokenizer.ggml.pre", "smollm");
  writer.texts("tokenizer.ggml.tokens", vocabulary.tokens);
  writer.texts("tokenizer.ggml.merges", vocabulary.merges);
  writer.integers("tokenizer.ggml.token_type", vocabulary.types);
  writer.integer("tokenizer.ggml.bos_token_id", 1);
  writer.integer("tokenizer.ggml.eos_token_id", 2);
  writer.flag("tokenizer.ggml.add_bos_token", false);
  writer.text("tokenizer.chat_template", chat_template);
}

void write_tiny_model(const std::string& path, const TinyModelOptions& options) {
  const auto hidden = static_cast<std::uint64_t>(options.query_heads * options.head_dim);
  const auto kv = static_cast<std::uint64_t>(options.kv_heads * options.head_dim);
  const auto mlp = static_cast<std::uint64_t>(options.mlp_dim);
  GgufWriter writer;
  writer.text("general.architecture", "llama");
  writer.text("general.name", "tiny");
  const auto size = [&](const char* key, int value) {
    writer.integer(std::string("llama.") + key, static_cast<std::uint32_t>(value));
  };
  size("block_count", options.layers);
  size("embedding_length", static_cast<int>(hidden));
  size("feed_forward_length", options.mlp_dim);
  size("attention.head_count", options.query_heads);
  size("attention.head_count_kv", options.kv_heads);
  size("context_length", options.context_length);
  size("rope.dimension_count", options.head_dim);
  writer.real("llama.rope.freq_base", 10000.0f);
  writer.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  add_tiny_tokenizer(writer);

  Random random(options.seed);
  const double scale = 1.0 / std::sqrt(static_cast<double>(hidden));
  writer.tensor("token_embd.weight", {300, hidden}, type_f32, matrix(random, 300, hidden, 0.5));
  writer.tensor("output_norm.weight", {hidden}, type_f32, norm(random, hidden));
  for (int layer = 0; layer < options.layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    const auto add = [&](const char* name, std::uint64_t rows, std::uint64_t columns,
                         double factor) {
      writer.tensor(prefix + name + ".weight", {rows, columns}, type_f32,
                    matrix(random, rows, columns, factor));
    };
    writer.tensor(prefix + "attn_norm.weight", {hidden}, type_f32, norm(random, hidden));
    add("attn_q", hidden, hidden, 2 * scale);
    add("attn_k", kv, hidden, 2 * scale);
    add("attn_v", kv, hidden, scale);
    add("attn_output", hidden, hidden, scale);
    writer.tensor(prefix + "ffn_norm.weight", {hidden}, type_f32, norm(random, hidden));
    add("ffn_gate", mlp, hidden, scale);
    add("ffn_up", mlp, hidden, scale);
    add("ffn_down", hidden, mlp, 1.0 / std::sqrt(static_cast<double>(mlp)));
  }
  std::ofstream(path, std::ios::binary) << writer.bytes();
}

}  // namespace kvscope::test
