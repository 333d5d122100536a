#include "kvscope/runtime/hook_point.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

const std::array<std::string, hook_points> names = {
    "residual_in",      "attention_input",  "queries_raw",     "keys_raw",
    "queries_pre_rope", "keys_pre_rope",    "queries",         "keys",
    "values",           "attention_output", "block_attention", "residual_mid",
    "mlp_input",        "mlp_output",       "residual_out",    "final_norm"};

}  // namespace

const char* hook_name(HookPoint point) {
  return names.at(static_cast<std::size_t>(point)).c_str();
}

HookPoint parse_hook(const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  KVSCOPE_CHECK(found != names.end(), ErrorCode::usage, fmt::format("no hook point '{}'", name),
                "hooks",
                fmt::format("did you mean '{}'?", nearest_name(name, names.data(), hook_points)));
  return static_cast<HookPoint>(found - names.begin());
}

}  // namespace kvscope
