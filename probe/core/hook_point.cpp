#include "kvscope/core/hook_point.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

const std::array<std::string, hook_points> names = {
    "residual_in",     "attention_input", "queries_raw", "keys_raw",   "queries_pre_rope",
    "keys_pre_rope",   "queries",         "keys",        "values",     "attention_output",
    "block_attention", "residual_mid",    "mlp_input",   "mlp_output", "residual_out",
    "embedding",       "final_norm",      "logits"};

constexpr std::array<const char*, hook_points> meanings = {
    "residual stream that enters the block",
    "after the input norm",
    "queries after projection and bias, before the QK norm",
    "keys after projection and bias, before the QK norm",
    "queries after the QK norm, before RoPE",
    "keys after the QK norm, before RoPE",
    "queries after RoPE, not scaled",
    "keys after RoPE",
    "values",
    "output of each attention head, before W_O",
    "output of attention after W_O, before a post-norm",
    "residual stream after attention was added",
    "after the MLP's norm",
    "output of the MLP, before a post-norm",
    "residual stream that leaves the block",
    "embedding after its scale",
    "after the output norm",
    "logits of the next token"};

}  // namespace

HookAxes hook_axes(HookPoint point) {
  switch (point) {
    case HookPoint::queries_raw:
    case HookPoint::queries_pre_rope:
    case HookPoint::queries:
    case HookPoint::attention_output:
      return HookAxes::query_heads;
    case HookPoint::keys_raw:
    case HookPoint::keys_pre_rope:
    case HookPoint::keys:
    case HookPoint::values:
      return HookAxes::kv_heads;
    case HookPoint::logits:
      return HookAxes::vocabulary;
    default:
      return HookAxes::hidden;
  }
}

bool of_model(HookPoint point) {
  return point >= HookPoint::embedding;
}

const char* hook_name(HookPoint point) {
  return names.at(static_cast<std::size_t>(point)).c_str();
}

const char* hook_meaning(HookPoint point) {
  return meanings.at(static_cast<std::size_t>(point));
}

HookPoint parse_hook(const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    const std::string near = nearest_name(name, names.data(), hook_points);
    throw Error(ErrorCode::usage, fmt::format("no hook point '{}'", name), "hooks",
                near.empty() ? fmt::format("choose from {}", fmt::join(names, ", "))
                             : fmt::format("did you mean '{}'?", near));
  }
  return static_cast<HookPoint>(found - names.begin());
}

}  // namespace kvscope
