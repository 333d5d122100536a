#include "kvscope/core/shape.h"

#include <fmt/format.h>

#include "kvscope/core/error.h"

namespace kvscope {

void check_shape(const ModelShape& shape, const std::string& where) {
  const auto positive = [&](int value, const char* name) {
    KVSCOPE_CHECK(value > 0, ErrorCode::corrupt_file,
                  fmt::format("{} is {}; it must be positive", name, value), where);
  };
  positive(shape.layers, "layers");
  positive(shape.query_heads, "query_heads");
  positive(shape.kv_heads, "kv_heads");
  positive(shape.head_dim, "head_dim");
  positive(shape.hidden_dim, "hidden_dim");
  KVSCOPE_CHECK(shape.query_heads % shape.kv_heads == 0, ErrorCode::corrupt_file,
                fmt::format("{} query heads cannot be shared evenly by {} KV heads",
                            shape.query_heads, shape.kv_heads),
                where);
  KVSCOPE_CHECK(
      shape.layer_windows.empty() ||
          shape.layer_windows.size() == static_cast<std::size_t>(shape.layers),
      ErrorCode::corrupt_file,
      fmt::format("{} layer windows for {} layers", shape.layer_windows.size(), shape.layers),
      where);
  KVSCOPE_CHECK(
      shape.rope.dims >= 0 && shape.rope.dims <= shape.head_dim && shape.rope.dims % 2 == 0,
      ErrorCode::corrupt_file,
      fmt::format("{} rotary dimensions in heads of {}; it must be even and no larger",
                  shape.rope.dims, shape.head_dim),
      where);
}

}  // namespace kvscope
