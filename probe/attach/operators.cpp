#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/library.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kvscope/attach/attached_run.h"
#include "kvscope/core/error.h"
#include "kvscope/core/log.h"

// The operators torch.ops.kvscope.*. A capture is its state, an int64 tensor [2] on the CPU:
// number, and status (0 running, 1 refused by the first pass, 2 ended). Errors are texts that are
// asked for: no exception leaves an operator. Operators that record change the state, so that no
// compiler takes them for work without effect.
namespace kvscope {
namespace {

using State = const at::Tensor&;
using Maybe = const std::optional<at::Tensor>&;

struct Capture {
  std::unique_ptr<AttachedRun> run;
  std::string error;  ///< why there is none
};

std::mutex captures_mutex;
std::map<std::int64_t, std::shared_ptr<Capture>> captures;
std::int64_t last_number = 0;
std::mutex messages_mutex;
std::vector<std::string> messages;

/// Warnings of the library wait until somebody asks for them.
void collect_messages() {
  static std::once_flag installed;
  std::call_once(installed, [] {
    set_log_sink([](LogLevel level, const std::string& text) {
      const std::lock_guard lock(messages_mutex);
      if (level >= LogLevel::warning && messages.size() < 1000) {
        messages.push_back(text);
      }
    });
  });
}

std::vector<std::string> take_messages() {
  const std::lock_guard lock(messages_mutex);
  return std::exchange(messages, {});
}

std::shared_ptr<Capture> capture_of(State state) {
  const bool sound = state.device().is_cpu() && state.scalar_type() == at::kLong &&
                     state.numel() == 2 && state.is_contiguous();
  const std::lock_guard lock(captures_mutex);
  const auto found =
      sound ? captures.find(state.const_data_ptr<std::int64_t>()[0]) : captures.end();
  return found != captures.end() ? found->second : std::make_shared<Capture>();
}

void set_status(State state, const Capture& capture) {
  if (state.numel() == 2 && state.scalar_type() == at::kLong) {
    state.mutable_data_ptr<std::int64_t>()[1] =
        capture.run ? static_cast<std::int64_t>(capture.run->status()) : 1;
  }
}

/// Runs `work` on the capture behind `state` and notes how it stands.
template <typename Work>
void on(State state, const Work& work) {
  const std::shared_ptr<Capture> capture = capture_of(state);
  if (capture->run) {
    work(*capture->run);
  }
  set_status(state, *capture);
}

std::vector<std::int32_t> numbers_of(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.to(at::kCPU, at::kInt).contiguous().view({-1});
  const auto* first = dense.const_data_ptr<std::int32_t>();
  return {first, first + dense.numel()};
}

/// Texts from their bytes, one behind the other, and where each ends.
std::vector<std::string> pieces_of(const at::Tensor& bytes, const at::Tensor& ends) {
  const at::Tensor text = bytes.to(at::kCPU, at::kByte).contiguous();
  const at::Tensor last = ends.to(at::kCPU, at::kLong).contiguous();
  const auto* byte = reinterpret_cast<const char*>(text.const_data_ptr<std::uint8_t>());
  std::vector<std::string> pieces;
  std::int64_t begin = 0;
  for (std::int64_t piece = 0; piece < last.numel(); ++piece) {
    const std::int64_t end =
        std::clamp(last.const_data_ptr<std::int64_t>()[piece], begin, text.numel());
    pieces.emplace_back(byte + begin, byte + end);
    begin = end;
  }
  return pieces;
}

FedTokens tokens_of(const at::Tensor& ids, const at::Tensor& positions, const at::Tensor& bytes,
                    const at::Tensor& ends) {
  return {numbers_of(ids), numbers_of(positions), pieces_of(bytes, ends)};
}

at::Tensor open_capture(std::string request, std::vector<at::Tensor> output_weights) {
  collect_messages();
  auto capture = std::make_shared<Capture>();
  try {
    capture->run = std::make_unique<AttachedRun>(parse_attach_request(request), output_weights);
  } catch (const std::exception& error) {
    capture->error = error_lines(error);
  }
  const std::lock_guard lock(captures_mutex);
  const std::int64_t number = ++last_number;
  captures[number] = capture;
  const at::Tensor state = at::tensor({number, std::int64_t{0}}, at::TensorOptions(at::kLong));
  set_status(state, *capture);
  return state;
}

void give_prompt(State state, const at::Tensor& ids, const at::Tensor& bytes,
                 const at::Tensor& ends, std::int64_t context_tokens) {
  on(state, [&](AttachedRun& run) {
    run.give_prompt(tokens_of(ids, at::zeros({0}, at::kInt), bytes, ends),
                    static_cast<int>(context_tokens));
  });
}

void name_method(State state, std::string method) {
  on(state, [&](AttachedRun& run) { run.name_method(method); });
}

void begin_pass(State state, const at::Tensor& ids, const at::Tensor& positions,
                const at::Tensor& bytes, const at::Tensor& ends) {
  on(state, [&](AttachedRun& run) { run.begin_pass(tokens_of(ids, positions, bytes, ends)); });
}

void capture_attention(State state, const at::Tensor& query, const at::Tensor& key,
                       const at::Tensor& value, Maybe mask, std::int64_t layer, double scale,
                       double softcap, std::int64_t window, Maybe output, Maybe keys_pre_rope,
                       Maybe hidden_heads, Maybe hidden_columns) {
  on(state, [&](AttachedRun& run) {
    AttentionCall call;
    call.layer = static_cast<int>(layer);
    call.query = query;
    call.key = key;
    call.value = value;
    call.mask = mask.value_or(at::Tensor());
    call.output = output.value_or(at::Tensor());
    call.keys_pre_rope = keys_pre_rope.value_or(at::Tensor());
    call.hidden_heads = hidden_heads.value_or(at::Tensor());
    call.hidden_columns = hidden_columns.value_or(at::Tensor());
    call.scale = scale;
    call.softcap = softcap;
    call.window = static_cast<int>(window);
    run.attention(call);
  });
}

void capture_hook(State state, std::string point, std::int64_t layer, const at::Tensor& tensor) {
  on(state, [&](AttachedRun& run) { run.hook(point, static_cast<int>(layer), tensor); });
}

void end_pass(State state, Maybe logits) {
  on(state, [&](AttachedRun& run) { run.end_pass(logits.value_or(at::Tensor())); });
}

std::string capture_error(State state) {
  const std::shared_ptr<Capture> capture = capture_of(state);
  return capture->run             ? capture->run->error()
         : capture->error.empty() ? "this capture is closed, or was never opened"
                                  : capture->error;
}

std::string close_capture(State state, std::int64_t how, std::string message) {
  const std::shared_ptr<Capture> capture = capture_of(state);
  AttachedReport report;
  if (!capture->run) {
    report.error = capture_error(state);
  } else if (how == static_cast<std::int64_t>(CaptureState::done)) {
    report = capture->run->finish();
  } else {
    report =
        capture->run->stop(static_cast<CaptureState>(std::clamp<std::int64_t>(how, 5, 6)), message);
  }
  {
    const std::lock_guard lock(captures_mutex);
    captures.erase(state.const_data_ptr<std::int64_t>()[0]);
  }
  for (std::string& text : take_messages()) {
    report.notes.push_back(std::move(text));
  }
  return nlohmann::json{{"path", report.path},       {"decision_path", report.decision_path},
                        {"profile", report.profile}, {"prompt_tokens", report.prompt_tokens},
                        {"steps", report.steps},     {"dropped_bytes", report.dropped_bytes},
                        {"notes", report.notes},     {"error", report.error}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string price_attached(std::string request, std::int64_t prompt_tokens) {
  try {
    AttachRequest parsed = parse_attach_request(request);
    CaptureRequest& capture = parsed.capture;
    KVSCOPE_CHECK(prompt_tokens >= 1 && prompt_tokens < (1 << 30), ErrorCode::usage,
                  fmt::format("a prompt of {} tokens", prompt_tokens), "price",
                  "give at least one token");
    const auto tokens = static_cast<int>(prompt_tokens);
    capture.layers = select_numbers(parsed.layers, parsed.model.shape.layers, "layers");
    capture.profile = parsed.profile.value_or(Profile::qkv);
    const CapturePrice price =
        price_capture(capture, parsed.model.shape, tokens, cache_element(parsed.model.cache_dtype));
    return nlohmann::json{{"profile", profile_name(capture.profile)},
                          {"disk_bytes", price.disk_bytes},
                          {"memory_bytes", price.memory_bytes},
                          {"statistics_flop", price.extra_flop}}
        .dump();
  } catch (const std::exception& error) {
    return nlohmann::json{{"error", error_lines(error)}}.dump();
  }
}

// What a tracer with tensors that hold nothing runs.
void no_prompt(State, const at::Tensor&, const at::Tensor&, const at::Tensor&, std::int64_t) {}
void no_pass(State, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) {}
void no_attention(State, const at::Tensor&, const at::Tensor&, const at::Tensor&, Maybe,
                  std::int64_t, double, double, std::int64_t, Maybe, Maybe, Maybe, Maybe) {}
void no_hook(State, std::string, std::int64_t, const at::Tensor&) {}
void no_end(State, Maybe) {}

TORCH_LIBRARY(kvscope, library) {
  library.def("open_capture(str request, Tensor[] output_weights) -> Tensor");
  library.def(
      "give_prompt(Tensor(a!) state, Tensor ids, Tensor bytes, Tensor ends, int context_tokens) -> "
      "()");
  library.def("name_method(Tensor(a!) state, str method) -> ()");
  library.def(
      "begin_pass(Tensor(a!) state, Tensor ids, Tensor positions, Tensor bytes, Tensor ends) -> "
      "()");
  library.def(
      "capture_attention(Tensor(a!) state, Tensor query, Tensor key, Tensor value, Tensor? mask, "
      "int layer, float scale, float softcap, int window, Tensor? output, Tensor? keys_pre_rope, "
      "Tensor? hidden_heads, Tensor? hidden_columns) -> ()");
  library.def("capture_hook(Tensor(a!) state, str point, int layer, Tensor tensor) -> ()");
  library.def("end_pass(Tensor(a!) state, Tensor? logits) -> ()");
  library.def("capture_error(Tensor state) -> str");
  library.def("close_capture(Tensor state, int how, str message) -> str");
  library.def("price_capture(str request, int prompt_tokens) -> str", price_attached);
}

TORCH_LIBRARY_IMPL(kvscope, CompositeExplicitAutograd, library) {
  library.impl("open_capture", open_capture);
  library.impl("give_prompt", give_prompt);
  library.impl("name_method", name_method);
  library.impl("begin_pass", begin_pass);
  library.impl("capture_attention", capture_attention);
  library.impl("capture_hook", capture_hook);
  library.impl("end_pass", end_pass);
  library.impl("capture_error", capture_error);
  library.impl("close_capture", close_capture);
}

TORCH_LIBRARY_IMPL(kvscope, Meta, library) {
  library.impl("give_prompt", no_prompt);
  library.impl("begin_pass", no_pass);
  library.impl("capture_attention", no_attention);
  library.impl("capture_hook", no_hook);
  library.impl("end_pass", no_end);
}

}  // namespace
}  // namespace kvscope
