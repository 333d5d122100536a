#include "capture_price.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "console.h"
#include "kvscope/capture/room.h"
#include "kvscope/core/error.h"
#include "kvscope/model/block_type.h"

namespace kvscope::cli {
namespace {

constexpr Weight matrices[] = {Weight::wq,       Weight::wk,     Weight::wv,      Weight::wo,
                               Weight::mlp_gate, Weight::mlp_up, Weight::mlp_down};

std::int64_t element_bytes(const PriceInput& input) {
  return input.compute.dtype == "bfloat16" ? 2 : 4;
}

double elements(const ModelFile& model, Weight weight, int layer) {
  if (!model.has(weight, layer)) {
    return 0;
  }
  const auto [rows, columns] = model.weight_shape(weight, layer);
  return static_cast<double>(rows) * static_cast<double>(columns);
}

double layer_weights(const ModelFile& model) {
  double total = 0;
  for (int layer = 0; layer < model.config().shape.layers; ++layer) {
    for (const Weight weight : matrices) {
      total += elements(model, weight, layer);
    }
  }
  return total;
}

double weight_bytes(const PriceInput& input, Weight weight, int layer) {
  const BlockType* kept = input.compute.weights == "keep" && input.model.has(weight, layer)
                              ? input.model.blocks(weight, layer)
                              : nullptr;
  return elements(input.model, weight, layer) *
         (kept != nullptr ? static_cast<double>(kept->bytes) / static_cast<double>(kept->elements)
                          : static_cast<double>(element_bytes(input)));
}

/// Weights, cache and the rows of one pass.
std::int64_t model_bytes(const CaptureRequest& request, const PriceInput& input) {
  const ModelConfig& config = input.model.config();
  const ModelShape& shape = config.shape;
  double weights = weight_bytes(input, Weight::token_embedding, -1);
  weights += config.tied_embeddings ? 0 : weight_bytes(input, Weight::output, -1);
  for (int layer = 0; layer < shape.layers; ++layer) {
    for (const Weight weight : matrices) {
      weights += weight_bytes(input, weight, layer);
    }
  }
  const auto tokens = static_cast<double>(input.prompt_tokens) + request.new_tokens;
  const double cache = 2.0 * shape.layers * shape.kv_heads * shape.head_dim * tokens;
  const double rows =
      input.chunk > 0 ? std::min(input.chunk, input.prompt_tokens) : input.prompt_tokens;
  const double width = (shape.query_heads + 2.0 * shape.kv_heads) * shape.head_dim;
  const double pass = 4 * rows * (3.0 * shape.hidden_dim + 3 * width);
  return static_cast<std::int64_t>(weights + static_cast<double>(element_bytes(input)) * cache +
                                   pass);
}

Room look_for_room(const CaptureRequest& request, const PriceInput& input) {
  Room room = room_for(input.output, input.yes || input.common.device != "cpu");
  room.model_bytes = model_bytes(request, input);
  return room;
}

CaptureTime time_of(const CaptureRequest& request, const PriceInput& input,
                    const CapturePrice& price) {
  const ModelConfig& config = input.model.config();
  const Weight head = config.tied_embeddings ? Weight::token_embedding : Weight::output;
  const RunWork work =
      work_of(config.shape, layer_weights(input.model), elements(input.model, head, -1),
              input.prompt_tokens, request.new_tokens, static_cast<double>(element_bytes(input)));
  constexpr double little = 2e9;  // a fraction of a second anywhere: not worth a measurement
  if (work.prompt_flop + price.extra_flop + work.steps * work.step_bytes < little) {
    return estimate_time(work, price, {1e10, 1e10});
  }
  return estimate_time(work, price, measure_rates(input.common.device, input.compute.dtype));
}

std::string seconds_text(double seconds) {
  return seconds < 1    ? "under a second"
         : seconds < 60 ? fmt::format("about {:.1f} s", seconds)
                        : fmt::format("about {:.0f} min {:02.0f} s", std::floor(seconds / 60),
                                      std::fmod(seconds, 60.0));
}

std::string part(double seconds, const char* what) {
  return seconds < 0.05 ? "" : fmt::format(", {:.1f} s {}", seconds, what);
}

}  // namespace

CapturePrice price_of(const CaptureRequest& request, const PriceInput& input) {
  return price_capture(request, input.model.config().shape, input.prompt_tokens,
                       cache_element(input.compute.dtype));
}

Profile choose_profile(const std::string& text, const CaptureRequest& request,
                       const PriceInput& input) {
  if (!text.empty()) {
    return parse_profile(text);
  }
  CaptureRequest tried = request;
  tried.profile = Profile::qkv;
  const CapturePrice price = price_of(tried, input);
  if (price.disk_bytes >= default_profile_limit) {
    say(fmt::format("profile: window (qkv would take {}; ask for it with --profile qkv)",
                    bytes_text(price.disk_bytes)));
    return Profile::window;
  }
  say(fmt::format("profile: qkv ({})", bytes_text(price.disk_bytes)));
  return Profile::qkv;
}

CaptureTime confirm_price(const CaptureRequest& request, const PriceInput& input) {
  const CapturePrice price = price_of(request, input);
  const bool confirmed = input.yes || price.disk_bytes <= unconfirmed_limit;
  KVSCOPE_CHECK(
      confirmed, ErrorCode::usage,
      fmt::format("the capture would take {}", bytes_text(price.disk_bytes)), input.output,
      request.attention_maps || request.logit_maps
          ? "leave out --attention-maps or --hooks logits_attention (any tile can be recomputed "
            "from --profile full), name fewer --hook-tokens, or confirm with --yes"
          : "choose --profile window or scores, or fewer --layers, or confirm with --yes");
  const Room room = look_for_room(request, input);
  check_room(request, input.model.config().shape, input.prompt_tokens,
             cache_element(input.compute.dtype), room);
  const CaptureTime time = time_of(request, input, price);
  const std::string parts = part(time.prompt, "the prompt") + part(time.statistics, "statistics") +
                            part(time.decode, "new tokens");
  say(fmt::format("price: {} on disk, {} of memory, {}{} (an estimate)",
                  bytes_text(price.disk_bytes), bytes_text(price.memory_bytes + room.model_bytes),
                  seconds_text(time.total()),
                  time.total() < 1 || parts.empty() ? "" : ": " + parts.substr(2)));
  return time;
}

}  // namespace kvscope::cli
