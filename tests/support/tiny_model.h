#pragma once

#include <cstdint>
#include <string>

namespace kvscope::test {

/// Sizes of the tiny seeded random model that tests run.
struct TinyModelOptions {
  int layers = 2;
  int query_heads = 4;
  int kv_heads = 2;
  int head_dim = 16;
  int mlp_dim = 96;
  int context_length = 2048;
  std::uint64_t seed = 7;
};

class GgufWriter;

/// The tokenizer of the tiny model: byte b is token 3 + b unless a merge takes it.
void add_tiny_tokenizer(GgufWriter& writer);

/// Writes a GGUF file (F32, architecture llama, tied embeddings, 300 tokens: 256 bytes, some
/// merges, ChatML's special tokens and template). The same options give the same bytes everywhere.
void write_tiny_model(const std::string& path, const TinyModelOptions& options = {});

}  // namespace kvscope::test
