#include "hook_datasets.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "datasets.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope::detail {
namespace {

struct Sizes {
  std::int64_t query_heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t layers = 0;
  std::int64_t tokens = 0;
  std::int64_t steps = 0;
};

DatasetSpec described(HookPoint point, ElementType cache_type, const char* population) {
  DatasetSpec spec;
  spec.type = point == HookPoint::logits ? ElementType::f4 : cache_type;
  spec.units = point == HookPoint::logits ? "nats" : "1";
  spec.long_name = hook_meaning(point);
  spec.formula = hook_name(point);
  spec.queries = population;
  spec.group_reduce = "none";
  spec.kernel = "kvscope runtime";
  return spec;
}

/// Rows of at most 1 MiB to a chunk.
std::int64_t chunk_rows(std::int64_t columns, std::int64_t most) {
  return std::clamp<std::int64_t>((std::int64_t{1} << 18) / std::max<std::int64_t>(columns, 1), 1,
                                  most);
}

DatasetSpec prompt_rows(HookPoint point, int layer, const ModelShape& shape, const Sizes& sizes,
                        ElementType cache_type) {
  DatasetSpec spec = described(point, cache_type, "prompt tokens of /axes/hook_token");
  spec.path = hook_dataset(point, layer);
  switch (hook_axes(point)) {
    case HookAxes::query_heads:
      spec.shape = {sizes.query_heads, sizes.tokens, shape.head_dim};
      spec.labels = {"query_head", "hook_token", "channel"};
      break;
    case HookAxes::kv_heads:
      spec.shape = {sizes.kv_heads, sizes.tokens, shape.head_dim};
      spec.labels = {"kv_head", "hook_token", "channel"};
      break;
    case HookAxes::hidden:
      spec.shape = {sizes.tokens, shape.hidden_dim};
      spec.labels = {"hook_token", "channel"};
      break;
    case HookAxes::vocabulary:
      spec.shape = {sizes.tokens, shape.vocabulary};
      spec.labels = {"hook_token", "vocabulary"};
      break;
  }
  const std::int64_t columns = spec.shape.back();
  spec.chunk = spec.shape.size() == 3 ? std::vector<std::int64_t>{1, 2048, columns}
                                      : std::vector<std::int64_t>{chunk_rows(columns, 64), columns};
  return spec;
}

DatasetSpec step_rows(HookPoint point, const ModelShape& shape, const Sizes& sizes,
                      ElementType cache_type) {
  DatasetSpec spec = described(point, cache_type, "the step's query");
  spec.path = std::string("steps/") + hook_name(point);
  spec.shape = {sizes.steps};
  spec.labels = {"step"};
  spec.chunk = {8};
  if (!of_model(point)) {
    spec.shape.push_back(sizes.layers);
    spec.labels.emplace_back("layer");
    spec.chunk.push_back(1);
  }
  const HookAxes axes = hook_axes(point);
  if (axes == HookAxes::query_heads || axes == HookAxes::kv_heads) {
    const bool query = axes == HookAxes::query_heads;
    spec.shape.push_back(query ? sizes.query_heads : sizes.kv_heads);
    spec.labels.emplace_back(query ? "query_head" : "kv_head");
    spec.chunk.push_back(spec.shape.back());
    spec.shape.push_back(shape.head_dim);
    spec.labels.emplace_back("channel");
  } else {
    const bool hidden = axes == HookAxes::hidden;
    spec.shape.push_back(hidden ? shape.hidden_dim : shape.vocabulary);
    spec.labels.emplace_back(hidden ? "channel" : "vocabulary");
  }
  spec.chunk.push_back(spec.shape.back());
  spec.chunk[0] =
      std::min(chunk_rows(spec.shape.back(), 8), std::max<std::int64_t>(sizes.steps, 1));
  return spec;
}

/// What the prompt ends in: the first step's token is drawn from it.
void add_prompt_logits(std::vector<DatasetSpec>& specs) {
  DatasetSpec ids = described(HookPoint::logits, ElementType::i4, "the last prompt query");
  ids.path = "model/logit_token";
  ids.type = ElementType::i4;
  ids.shape = ids.chunk = {decode_top_logits};
  ids.units = "token id";
  ids.long_name = "most probable tokens after the prompt, descending";
  ids.formula = "argsort -logits";
  ids.labels = {"rank"};
  DatasetSpec values = ids;
  values.path = "model/logit_logprob";
  values.type = ElementType::f4;
  values.units = "nats";
  values.long_name = "log probability of the most probable tokens after the prompt";
  values.formula = "log softmax(logits)";
  specs.push_back(std::move(ids));
  specs.push_back(std::move(values));
}

}  // namespace

std::string hook_dataset(HookPoint point, int layer) {
  return of_model(point) ? std::string("model/") + hook_name(point)
                         : layer_dataset(layer, hook_name(point));
}

bool stores_hook_rows(HookPoint point) {
  return point != HookPoint::keys_pre_rope && stores_hook_steps(point);
}

bool stores_hook_steps(HookPoint point) {
  return point != HookPoint::queries && point != HookPoint::keys && point != HookPoint::values;
}

std::vector<DatasetSpec> hook_datasets(const CaptureRequest& request, const ModelShape& shape,
                                       int prompt_tokens, ElementType cache_type) {
  const CaptureChoice choice = choose(request, shape, prompt_tokens);
  const Sizes sizes{std::ssize(choice.query_heads), std::ssize(choice.kv_heads),
                    std::ssize(choice.layers), std::ssize(choice.hook_tokens),
                    std::ssize(choice.steps.decode)};
  std::vector<DatasetSpec> specs;
  add_prompt_logits(specs);
  for (const HookPoint point : request.hooks) {
    if (stores_hook_rows(point) && choice.steps.prompt) {
      for (const int layer : of_model(point) ? std::vector<int>{-1} : choice.layers) {
        specs.push_back(prompt_rows(point, layer, shape, sizes, cache_type));
      }
    }
    if (stores_hook_steps(point)) {
      specs.push_back(step_rows(point, shape, sizes, cache_type));
    }
  }
  return specs;
}

}  // namespace kvscope::detail
