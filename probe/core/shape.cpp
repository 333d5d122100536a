#include "kvscope/core/shape.h"

#include <fmt/format.h>

#include <cmath>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

void check_rope(const RopeParameters& rope, int head_dim, const std::string& where) {
  KVSCOPE_CHECK(rope.dims >= 0 && rope.dims <= head_dim && rope.dims % 2 == 0,
                ErrorCode::corrupt_file,
                fmt::format("{} rotary dimensions in heads of {}; it must be even and no larger",
                            rope.dims, head_dim),
                where);
  KVSCOPE_CHECK(
      rope.growth != RopeGrowth::dynamic_ntk || (rope.dims > 2 && rope.original_context > 0),
      ErrorCode::corrupt_file,
      "dynamic rope scaling needs more than 2 rotary dimensions and the original context", where);
  KVSCOPE_CHECK(rope.growth != RopeGrowth::longrope ||
                    rope.long_inverse_frequency.size() == rope.inverse_frequency.size(),
                ErrorCode::corrupt_file,
                fmt::format("longrope has {} long and {} short frequencies",
                            rope.long_inverse_frequency.size(), rope.inverse_frequency.size()),
                where);
}

}  // namespace

std::vector<double> RopeParameters::frequencies(std::int64_t tokens) const {
  if (growth == RopeGrowth::fixed || tokens <= original_context) {
    return inverse_frequency;
  }
  if (growth == RopeGrowth::longrope) {
    return long_inverse_frequency;
  }
  const double stretch =
      growth_factor * static_cast<double>(tokens) / original_context - (growth_factor - 1.0);
  const double grown = base * std::pow(stretch, dims / (dims - 2.0));
  std::vector<double> result;
  for (int pair = 0; pair < dims / 2; ++pair) {
    result.push_back(std::pow(grown, -2.0 * pair / dims));
  }
  return result;
}

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
      shape.layer_ropes.empty() ||
          shape.layer_ropes.size() == static_cast<std::size_t>(shape.layers),
      ErrorCode::corrupt_file,
      fmt::format("{} layer rotations for {} layers", shape.layer_ropes.size(), shape.layers),
      where);
  check_rope(shape.rope, shape.head_dim, where);
  for (const RopeParameters& rope : shape.layer_ropes) {
    check_rope(rope, shape.head_dim, where);
  }
}

}  // namespace kvscope
