#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvscope/core/shape.h"
#include "kvscope/model/block_type.h"

namespace kvscope {

class Tokenizer;

/// What stands between the two MLP projections.
enum class Activation { silu, gelu_tanh, gelu, relu };

/// x / rms(x) * w, or (x - mean) / deviation * w + b (Falcon).
enum class NormKind { rms, layer };

/// What a model file says about the network, names and units unified over formats. How a layer is
/// put together follows from here and from which optional weights there are (`ModelFile::has`).
/// What is not in these fields is Llama's; what the reader cannot express here it refuses.
struct ModelConfig {
  std::string
      architecture;  ///< llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3, smollm3, falcon
  std::string name;
  std::string weights_dtype;  ///< most common block type of the projections, e.g. "Q4_1"
  /// Includes attention_scale (query_pre_attn_scalar), logit_softcap (attention), layer_windows and
  /// the rotation of each layer (`rope_of`).
  ModelShape shape;
  int mlp_dim = 0;
  int context_length = 0;
  double norm_epsilon = 1e-5;
  bool tied_embeddings = false;
  NormKind norm = NormKind::rms;
  /// Gemma multiplies by the norm weight in float32 and rounds after; Llama rounds x / rms(x) to
  /// the run's dtype first. Equal in float32. Norm weights as read are finished: Gemma's +1 is in.
  bool norm_rounds_last = false;
  Activation activation = Activation::silu;
  bool gated_mlp = true;  ///< down(act(gate x) * up x); else down(act(up x)) and no mlp_gate
  /// Multiplies the embedding (Gemma: sqrt(hidden_dim)); rounded to the run's dtype first.
  double embedding_scale = 1.0;
  double output_softcap = 0.0;  ///< c in c * tanh(logits / c); 0 = none
  /// Attention and MLP both read the layer's input and are added to it together (Falcon). With
  /// `mlp_norm` absent both read what `attention_norm` gives.
  bool parallel_mlp = false;
};

/// Projection or other weight of one layer, or of the model (layer -1). Optional ones are there
/// where `ModelFile::has` says so.
enum class Weight {
  token_embedding,  ///< [vocabulary, hidden_dim], layer -1
  output_norm,      ///< [hidden_dim], layer -1
  output,           ///< [vocabulary, hidden_dim], layer -1; the embedding when tied
  attention_norm,   ///< [hidden_dim]
  wq,               ///< [query_heads * head_dim, hidden_dim], half-split RoPE row order
  wk,               ///< [kv_heads * head_dim, hidden_dim], half-split RoPE row order
  wv,               ///< [kv_heads * head_dim, hidden_dim]
  wo,               ///< [hidden_dim, query_heads * head_dim]
  mlp_norm,         ///< [hidden_dim]; before the MLP
  mlp_gate,         ///< [mlp_dim, hidden_dim]
  mlp_up,           ///< [mlp_dim, hidden_dim]
  mlp_down,         ///< [hidden_dim, mlp_dim]
  // Optional from here on.
  q_norm,               ///< [head_dim]; RMS norm of each query head before the rotation
  k_norm,               ///< [head_dim]; likewise of each key head
  bq,                   ///< [query_heads * head_dim], half-split RoPE order
  bk,                   ///< [kv_heads * head_dim], half-split RoPE order
  bv,                   ///< [kv_heads * head_dim]
  bo,                   ///< [hidden_dim]
  mlp_gate_bias,        ///< [mlp_dim]
  mlp_up_bias,          ///< [mlp_dim]
  mlp_down_bias,        ///< [hidden_dim]
  post_attention_norm,  ///< [hidden_dim]; of the attention block's output, before it is added
                        ///< (Gemma)
  post_mlp_norm,        ///< [hidden_dim]; of the MLP's output, before it is added (Gemma)
  attention_norm_bias,  ///< [hidden_dim]; NormKind::layer
  mlp_norm_bias,        ///< [hidden_dim]; NormKind::layer
  output_norm_bias,     ///< [hidden_dim], layer -1; NormKind::layer
};

/// A model on disk (GGUF or safetensors), memory-mapped and checked before use: every count, offset, type and
/// shape. Throws Error{io | corrupt_file | unsupported}, naming tensor or key and the byte offset.
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
  /// Name of the tensor that holds it, as stored; for messages.
  virtual std::string weight_name(Weight weight, int layer) const;
  /// Dequantises to float32, row-major, into `out` (exact size). Q and K rows come in half-split
  /// RoPE order whatever the file's order. Uses up to `threads` threads. Safe from several threads.
  virtual void read(Weight weight, int layer, std::span<float> out, int threads = 1) const = 0;
  /// The type whose blocks, dequantised row by row, are the weight (what `read` gives, bitwise);
  /// nullptr where more is needed than the blocks (FP8 with scales, norms that are stored less one).
  virtual const BlockType* blocks(Weight weight, int layer) const;
  /// Copies the stored blocks, row after row in the order of `read`, into `out` (exact size: rows *
  /// columns / elements * bytes of `blocks`, which must not be null). Safe from several threads.
  virtual void read_blocks(Weight weight, int layer, std::span<std::uint8_t> out) const;
  /// Gives the memory of what was read back to the system; it is read again when next asked for.
  virtual void release() const {}
  virtual std::shared_ptr<const Tokenizer> tokenizer() const = 0;
  /// One line for each tensor and metadata key, for `inspect`.
  virtual std::vector<std::string> describe() const = 0;
};

}  // namespace kvscope
