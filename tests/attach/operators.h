#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kvscope/core/shape.h"
#include "kvscope/core/tokens.h"

namespace kvscope::test {

/// What a caller of the attention operator says of it.
struct SeenAttention {
  int layer = 0;
  at::Tensor query;  ///< [1, query_heads, n, head_dim]
  at::Tensor key;    ///< [1, kv_heads, columns, head_dim]
  at::Tensor value;
  std::optional<at::Tensor> mask;
  double scale = 1;
  double softcap = 0;
  int window = 0;
  std::optional<at::Tensor> output;
  std::optional<at::Tensor> keys_pre_rope;
  std::optional<at::Tensor> hidden_heads;
  std::optional<at::Tensor> hidden_columns;
};

/// The operators torch.ops.kvscope.*, called through LibTorch's dispatcher as Python calls them.
class Operators {
 public:
  /// Opens the library (once); opens a capture.
  Operators(const nlohmann::json& request, const std::vector<at::Tensor>& output_weights);

  void give_prompt(const std::vector<std::int32_t>& ids, int context_tokens) const;
  void name_method(const std::string& method) const;
  /// Positions are `first`, first + 1, ... and pieces "a", "b", ...
  void begin_pass(const std::vector<std::int32_t>& ids, int first) const;
  void attention(const SeenAttention& seen) const;
  void hook(const std::string& point, int layer, const at::Tensor& tensor) const;
  void end_pass(const std::optional<at::Tensor>& logits = {}) const;
  std::int64_t status() const { return state_.const_data_ptr<std::int64_t>()[1]; }
  std::string error() const;
  nlohmann::json close(int how = 4, const std::string& message = "") const;

 private:
  at::Tensor state_;
};

/// The model part of a request, and the request of a profile.
nlohmann::json model_json(const ModelShape& shape, const std::string& kernel = "sdpa");
nlohmann::json request_for(const std::string& path, const ModelShape& shape,
                           const std::string& profile, int new_tokens = 0);

/// A mask as transformers builds it: [1, 1, rows, keys], true = visible; the first query is token
/// `first_query`, the first key token `first_key`.
at::Tensor built_mask(int first_query, int rows, int first_key, int keys, int window);

}  // namespace kvscope::test
