#include "kvscope/capture/request.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "datasets.h"
#include "hook_datasets.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

std::int64_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::f2:
    case ElementType::bf16:
      return 2;
    case ElementType::u1:
      return 1;
    case ElementType::f8:
    case ElementType::i8:
    case ElementType::u8:
      return 8;
    default:
      return 4;
  }
}

/// What rows of logits, sampled queries and gradients cost beyond the disk.
void add_rows(CapturePrice& price, const CaptureRequest& request, const CaptureChoice& choice,
              const ModelShape& shape, std::int64_t tokens) {
  // Q K of `queries` rows, each over half of the prompt on average.
  const auto products = [&](double heads, double queries) {
    return static_cast<double>(choice.layers.size()) * heads * queries *
           static_cast<double>(tokens) * shape.head_dim;
  };
  if (request.logit_maps) {
    price.extra_flop += products(static_cast<double>(choice.query_heads.size()),
                                 static_cast<double>(choice.hook_tokens.size()));
    price.memory_bytes += 2 * 256 * tokens * 4;
  }
  if (request.sample_queries > 0) {
    price.extra_flop +=
        products(shape.query_heads, static_cast<double>(tokens) / request.sample_queries);
    price.memory_bytes += (2 * 64 + shape.query_heads) * tokens * 4;
  }
  if (request.keys_gradient) {  // forward, back, and what the way back needs of each layer
    price.extra_passes += 3;
    const std::int64_t width = std::int64_t{shape.query_heads} * shape.head_dim;
    price.memory_bytes += tokens * 4 * shape.layers * (shape.hidden_dim + 2 * width);
    price.memory_bytes += tokens * 4 * shape.hidden_dim * 12;
  }
}

}  // namespace

CaptureChoice choose(const CaptureRequest& request, const ModelShape& shape, int prompt_tokens) {
  CaptureChoice choice;
  choice.layers = request.layers;
  if (choice.layers.empty()) {
    choice.layers = select_numbers("all", shape.layers, "--layers");
  }
  choice.query_heads = select_numbers(request.query_heads, shape.query_heads, "--query-heads");
  choice.kv_heads = select_numbers(request.kv_heads, shape.kv_heads, "--kv-heads");
  choice.steps = select_steps(request.steps, request.new_tokens);
  const bool tensors = request.profile == Profile::qkv || request.profile == Profile::full;
  bool rows = request.logit_maps || request.keys_gradient;
  for (const HookPoint point : request.hooks) {
    KVSCOPE_CHECK(tensors || detail::stores_hook_rows(point), ErrorCode::usage,
                  fmt::format("'{}' is what profile qkv stores", hook_name(point)), "--hooks",
                  "add --profile qkv (--layers and the head flags make it smaller)");
    rows = rows || detail::stores_hook_rows(point);
  }
  if (rows && choice.steps.prompt) {
    choice.hook_tokens = select_numbers(request.hook_tokens, prompt_tokens, "--hook-tokens");
  }
  if (request.keys_gradient) {
    KVSCOPE_CHECK(choice.steps.prompt, ErrorCode::usage,
                  "gradients of keys are those of the prompt's loss", "--steps",
                  "keep step 0, or leave keys_gradient out of --hooks");
    KVSCOPE_CHECK(prompt_tokens > 1, ErrorCode::usage, "one token predicts none after it",
                  "--hooks keys_gradient", "give a prompt of at least two tokens");
  }
  if (request.snapshots != "none") {
    choice.snapshots = select_numbers(request.snapshots, request.new_tokens + 1, "--snapshots");
    KVSCOPE_CHECK(request.profile != Profile::window, ErrorCode::usage,
                  "snapshots add up the attention of all queries", "--snapshots",
                  "add --profile scores, qkv or full");
  }
  return choice;
}

ElementType cache_element(const std::string& dtype) {
  return dtype == "bfloat16" ? ElementType::bf16 : ElementType::f4;
}

CapturePrice price_capture(const CaptureRequest& request, const ModelShape& shape,
                           int prompt_tokens, ElementType cache_type) {
  CapturePrice price;
  for (const DatasetSpec& spec : capture_datasets(request, shape, prompt_tokens, cache_type)) {
    std::int64_t bytes = element_bytes(spec.type);
    for (const std::int64_t size : spec.shape) {
      bytes *= size;
    }
    price.disk_bytes += bytes;
  }
  const std::int64_t tokens = prompt_tokens;
  price.disk_bytes += 40 * (tokens + request.new_tokens) + (std::int64_t{1} << 16);
  const std::int64_t plane = shape.query_heads * tokens * 4;
  const std::int64_t columns = request.profile == Profile::window ? 4 : 8;
  if (!request.hooks.empty()) {  // the MLP works on all rows at once: gate, up and their product
    price.memory_bytes += tokens * shape.hidden_dim * 4 * 12;
  }
  price.memory_bytes += plane * (columns + 3 * static_cast<std::int64_t>(request.windows.size())) +
                        tokens * (shape.query_heads + 3 * shape.kv_heads) * shape.head_dim * 4 +
                        detail::queue_limit_bytes;
  const CaptureChoice choice = choose(request, shape, prompt_tokens);
  const auto layers = static_cast<double>(choice.layers.size());
  const std::int64_t planned = tokens + request.new_tokens;
  if (request.evicted_mass) {
    price.memory_bytes += std::ssize(choice.layers) * shape.kv_heads * planned * shape.head_dim * 4;
  }
  if (!choice.snapshots.empty()) {
    price.memory_bytes += std::ssize(choice.layers) * shape.query_heads * planned * 4;
  }
  const double window = request.windows.empty() ? 1 : request.windows.back();
  const double rows = request.profile == Profile::window ? window : static_cast<double>(tokens) / 2;
  price.extra_flop =
      layers * 2.0 * shape.query_heads * rows * static_cast<double>(tokens) * shape.head_dim;
  if (request.attention_maps || request.top_keys > 0 || request.pooled_block > 0 ||
      request.received_by_segment) {
    price.extra_flop += layers * 2.0 * shape.query_heads * static_cast<double>(tokens) / 2 *
                        static_cast<double>(tokens) * shape.head_dim;
    price.memory_bytes += 2 * 512 * tokens * 4;
  }
  add_rows(price, request, choice, shape, prompt_tokens);
  return price;
}

std::string request_json(const CaptureRequest& request) {
  std::string hooks;
  for (const HookPoint point : request.hooks) {
    hooks += fmt::format("{}\"{}\"", hooks.empty() ? "" : ",", hook_name(point));
  }
  std::string groups;
  for (const GroupReduce reduce : request.group_reduces) {
    groups += fmt::format("{}\"{}\"", groups.empty() ? "" : ",", group_reduce_name(reduce));
  }
  return fmt::format(
      R"({{"profile":"{}","windows":[{}],"layers":[{}],"query_heads":"{}","kv_heads":"{}","steps":"{}","hooks":[{}],"hook_tokens":"{}","head_output_norm":{},"received_by_segment":{},"attention_row":{},"evicted_mass":{},"snapshots":"{}","stored_queries":{},"new_tokens":{},"attention_maps":{},"logits_attention":{},"keys_gradient":{},"group_reduce":[{}],"sample_queries":{},"seed":{},"top_keys":{},"pooled_block":{},"compress":{},"never_drop":{},"drop_bulk":{},"live":{}}})",
      profile_name(request.profile), fmt::join(request.windows, ","),
      fmt::join(request.layers, ","), request.query_heads, request.kv_heads, request.steps, hooks,
      request.hook_tokens, request.head_output_norm, request.received_by_segment,
      request.attention_row, request.evicted_mass, request.snapshots, request.stored_queries,
      request.new_tokens, request.attention_maps, request.logit_maps, request.keys_gradient, groups,
      request.sample_queries, request.seed, request.top_keys, request.pooled_block,
      request.compress, request.never_drop, request.drop_bulk, request.live);
}

}  // namespace kvscope
