#include "operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <dlfcn.h>

#include <stdexcept>
#include <utility>

namespace kvscope::test {
namespace {

void open_library() {
  static const bool opened = [] {
    if (dlopen(KVSCOPE_TORCH_LIBRARY, RTLD_NOW | RTLD_LOCAL) == nullptr) {
      throw std::runtime_error(dlerror());
    }
    return true;
  }();
  static_cast<void>(opened);
}

template <typename... Arguments>
torch::jit::Stack call(const char* name, Arguments&&... arguments) {
  const auto found =
      c10::Dispatcher::singleton().findSchemaOrThrow((std::string("kvscope::") + name).c_str(), "");
  torch::jit::Stack stack = {c10::IValue(std::forward<Arguments>(arguments))...};
  found.callBoxed(stack);
  return stack;
}

at::Tensor counted(std::int64_t first, std::size_t count) {
  return at::arange(first, first + static_cast<std::int64_t>(count), at::kLong);
}

}  // namespace

Operators::Operators(const nlohmann::json& request, const std::vector<at::Tensor>& output_weights) {
  open_library();
  state_ = call("open_capture", request.dump(), output_weights).at(0).toTensor();
}

void Operators::give_prompt(const std::vector<std::int32_t>& ids, int context_tokens) const {
  call("give_prompt", state_, at::tensor(ids, at::kLong), at::zeros({0}, at::kByte),
       at::zeros({static_cast<std::int64_t>(ids.size())}, at::kLong),
       static_cast<std::int64_t>(context_tokens));
}

void Operators::name_method(const std::string& method) const {
  call("name_method", state_, method);
}

void Operators::begin_pass(const std::vector<std::int32_t>& ids, int first) const {
  call("begin_pass", state_, at::tensor(ids, at::kLong), counted(first, ids.size()),
       counted('a' + first % 16, ids.size()).to(at::kByte), counted(1, ids.size()));
}

void Operators::attention(const SeenAttention& seen) const {
  call("capture_attention", state_, seen.query, seen.key, seen.value, seen.mask,
       static_cast<std::int64_t>(seen.layer), seen.scale, seen.softcap,
       static_cast<std::int64_t>(seen.window), seen.output, seen.keys_pre_rope, seen.hidden_heads,
       seen.hidden_columns);
}

void Operators::hook(const std::string& point, int layer, const at::Tensor& tensor) const {
  call("capture_hook", state_, point, static_cast<std::int64_t>(layer), tensor);
}

void Operators::end_pass(const std::optional<at::Tensor>& logits) const {
  call("end_pass", state_, logits);
}

std::string Operators::error() const {
  return call("capture_error", state_).at(0).toStringRef();
}

nlohmann::json Operators::close(int how, const std::string& message) const {
  return nlohmann::json::parse(
      call("close_capture", state_, static_cast<std::int64_t>(how), message).at(0).toStringRef());
}

nlohmann::json model_json(const ModelShape& shape, const std::string& kernel) {
  const auto rope = [](const RopeParameters& one) {
    return nlohmann::json{{"base", one.base},
                          {"dims", one.dims},
                          {"inverse_frequency", one.inverse_frequency},
                          {"attention_factor", one.attention_factor},
                          {"scaling", one.scaling}};
  };
  return {{"name", "fake"},
          {"hash", "00000000deadbeef"},
          {"architecture", "llama"},
          {"compute_dtype", "float32"},
          {"cache_dtype", "float32"},
          {"attention_kernel", kernel},
          {"attached_to", "a test"},
          {"layers", shape.layers},
          {"query_heads", shape.query_heads},
          {"kv_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},
          {"hidden_dim", shape.hidden_dim},
          {"vocabulary", shape.vocabulary},
          {"attention_scale", shape.attention_scale},
          {"logit_softcap", shape.logit_softcap},
          {"layer_windows", shape.layer_windows},
          {"ropes", nlohmann::json::array({rope(shape.rope)})}};
}

nlohmann::json request_for(const std::string& path, const ModelShape& shape,
                           const std::string& profile, int new_tokens) {
  return {{"path", path},
          {"profile", profile},
          {"windows", {4}},
          {"new_tokens", new_tokens},
          {"model", model_json(shape)}};
}

at::Tensor built_mask(int first_query, int rows, int first_key, int keys, int window) {
  at::Tensor mask = at::zeros({1, 1, rows, keys}, at::kBool);
  bool* cell = mask.mutable_data_ptr<bool>();
  for (int query = first_query; query < first_query + rows; ++query) {
    for (int key = first_key; key < first_key + keys; ++key) {
      *cell++ = key <= query && (window == 0 || query - key < window);
    }
  }
  return mask;
}

}  // namespace kvscope::test
