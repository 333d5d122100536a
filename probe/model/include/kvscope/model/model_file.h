#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvscope/core/shape.h"

namespace kvscope {

class Tokenizer;

/// What a model file says about the network, names and units unified over formats.
struct ModelConfig {
  std::string architecture;  ///< "llama", ...
  std::string name;
  std::string weights_dtype; ///< most common block type of the projections, e.g. "Q4_1"
  ModelShape shape;
  int mlp_dim = 0;
  int context_length = 0;
  double norm_epsilon = 1e-5;
  bool tied_embeddings = false;
};

/// Projection or other weight of one layer, or of the model (layer -1).
enum class Weight {
  token_embedding,  ///< [vocabulary, hidden_dim], layer -1
  output_norm,      ///< [hidden_dim], layer -1
  output,           ///< [vocabulary, hidden_dim], layer -1; the embedding when tied
  attention_norm,   ///< [hidden_dim]
  wq,               ///< [query_heads * head_dim, hidden_dim], half-split RoPE row order
  wk,               ///< [kv_heads * head_dim, hidden_dim], half-split RoPE row order
  wv,               ///< [kv_heads * head_dim, hidden_dim]
  wo,               ///< [hidden_dim, query_heads * head_dim]
  mlp_norm,         ///< [hidden_dim]
  mlp_gate,         ///< [mlp_dim, hidden_dim]
  mlp_up,           ///< [mlp_dim, hidden_dim]
  mlp_down,         ///< [hidden_dim, mlp_dim]
  bq,               ///< [query_heads * head_dim], half-split RoPE row order; few families have it
  bk,               ///< [kv_heads * head_dim], likewise
  bv,               ///< [kv_heads * head_dim]
  bo,               ///< [hidden_dim]
  q_norm,           ///< [head_dim] gain of the per-head norm of queries, before RoPE
  k_norm,           ///< [head_dim] likewise of keys
};

/// A model on disk (GGUF), memory-mapped and checked before use: every count, offset, type and shape.
/// Throws Error{io | corrupt_file | unsupported}, naming tensor or key and the byte offset.
class ModelFile {
 public:
  static std::unique_ptr<ModelFile> open(const std::string& path);
  virtual ~ModelFile() = default;

  virtual const ModelConfig& config() const = 0;
  /// Of tensor names, shapes and a sample of bytes; 16 hex digits.
  virtual std::string hash() const = 0;
  virtual bool has(Weight weight, int layer) const = 0;
  /// [rows, columns] (columns 1 for vectors).
  virtual std::pair<std::int64_t, std::int64_t> weight_shape(Weight weight, int layer) const = 0;
  /// Block type as stored, e.g. "Q4_1".
  virtual std::string weight_dtype(Weight weight, int layer) const = 0;
  /// Dequantises to float32, row-major, into `out` (exact size). Q and K rows come in half-split RoPE
  /// order whatever the file's order. Uses up to `threads` threads. Safe from several threads.
  virtual void read(Weight weight, int layer, std::span<float> out, int threads = 1) const = 0;
  virtual std::shared_ptr<const Tokenizer> tokenizer() const = 0;
  /// One line for each tensor and metadata key, for `inspect`.
  virtual std::vector<std::string> describe() const = 0;
};

}  // namespace kvscope
