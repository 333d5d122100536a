#include "capture_schema.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kvscope/core/error.h"
#include "kvscope/core/hook_point.h"

namespace kvscope {
namespace {

/// An axis of the schema: a size of the file, or one that a dataset chooses.
enum class Axis {
  layers,
  query_heads,
  kv_heads,
  head_dim,
  hidden,
  vocabulary,
  prompt,
  planned,
  stored,
  hooked,
  steps,
  free
};

struct Rule {
  std::string_view name;
  std::vector<Axis> axes;
};

using enum Axis;

/// Appends the rules of hook points of layers or of the model: `first` axes, then those of a token.
void add_hook_rules(std::vector<Rule>& rules, bool model, bool steps_of) {
  for (int index = 0; index < hook_points; ++index) {
    const auto point = static_cast<HookPoint>(index);
    const std::string_view name = hook_name(point);
    const bool known = std::any_of(rules.begin(), rules.end(),
                                   [&](const Rule& rule) { return rule.name == name; });
    if (known || (of_model(point) != model && !steps_of)) {
      continue;  // the profile's own
    }
    Rule rule{name, {}};
    if (steps_of) {
      rule.axes = of_model(point) ? std::vector<Axis>{steps} : std::vector<Axis>{steps, layers};
    }
    const HookAxes axes = hook_axes(point);
    if (axes == HookAxes::query_heads || axes == HookAxes::kv_heads) {
      rule.axes.push_back(axes == HookAxes::query_heads ? query_heads : kv_heads);
    }
    if (!steps_of) {
      rule.axes.push_back(hooked);
    }
    rule.axes.push_back(axes == HookAxes::hidden       ? hidden
                        : axes == HookAxes::vocabulary ? vocabulary
                                                       : head_dim);
    rules.push_back(rule);
  }
}

std::vector<Rule> with_hooks(std::vector<Rule> rules, bool model, bool steps_of) {
  add_hook_rules(rules, model, steps_of);
  return rules;
}

const std::vector<Rule>& reduce_rules() {
  static const std::vector<Rule> rules = {
      {"attention_sum", {layers, query_heads, planned}},
      {"attention_max", {layers, query_heads, planned}},
      {"attention_sum_squares", {layers, query_heads, planned}},
      {"attention_sum_sampled", {layers, query_heads, prompt}},
      {"window_sum", {layers, query_heads, prompt}},
      {"window_sum_squares", {layers, query_heads, prompt}},
      {"window_max", {layers, query_heads, prompt}},
      {"last_query", {layers, query_heads, prompt}},
      {"lse", {layers, query_heads, prompt}},
      {"entropy", {layers, query_heads, prompt}},
      {"key_norm", {layers, kv_heads, prompt}},
      {"value_norm", {layers, kv_heads, prompt}},
      {"value_norm_l1", {layers, kv_heads, prompt}},
      {"projected_value_norm", {layers, query_heads, prompt}},
      {"projected_value_norm_l1", {layers, query_heads, prompt}},
      {"self_check", {layers, query_heads}},
      {"head_output_norm", {layers, query_heads, prompt}},
      {"received_by_segment", {layers, query_heads, prompt, free}},
      {"top_key", {layers, query_heads, prompt, free}},
      {"top_probability", {layers, query_heads, prompt, free}}};
  return rules;
}

/// Planes of attention by KV head: "reduce/group_mean/attention_sum".
const std::vector<Rule>& group_rules() {
  static const std::vector<Rule> rules = [] {
    std::vector<Rule> by_kv_head = reduce_rules();
    for (Rule& rule : by_kv_head) {
      std::replace(rule.axes.begin(), rule.axes.end(), query_heads, kv_heads);
    }
    return by_kv_head;
  }();
  return rules;
}

const std::vector<Rule>& layer_rules() {
  static const std::vector<Rule> rules =
      with_hooks({{"keys", {kv_heads, prompt, head_dim}},
                  {"keys_pre_rope", {kv_heads, prompt, head_dim}},
                  {"values", {kv_heads, prompt, head_dim}},
                  {"queries", {query_heads, stored, head_dim}},
                  {"output_factor", {query_heads, head_dim, head_dim}},
                  {"attention", {query_heads, prompt, prompt}},
                  {"logits_attention", {query_heads, hooked, prompt}},
                  {"keys_gradient", {kv_heads, hooked, head_dim}}},
                 false, false);
  return rules;
}

const std::vector<Rule>& model_rules() {
  static const std::vector<Rule> rules =
      with_hooks({{"logit_token", {free}}, {"logit_logprob", {free}}}, true, false);
  return rules;
}

const std::vector<Rule>& step_rules() {
  static const std::vector<Rule> rules =
      with_hooks({{"token", {steps}},
                  {"time_ns", {steps}},
                  {"stall_ns", {steps}},
                  {"entropy", {steps, layers, query_heads}},
                  {"lse", {steps, layers, query_heads}},
                  {"sink_mass", {steps, layers, query_heads}},
                  {"evicted_mass", {steps, layers, query_heads}},
                  {"head_output_norm", {steps, layers, query_heads}},
                  {"received_by_segment", {steps, layers, query_heads, free}},
                  {"top_key", {steps, layers, query_heads, free}},
                  {"top_probability", {steps, layers, query_heads, free}},
                  {"cache_slots", {steps, layers, kv_heads}},
                  {"logit_token", {steps, free}},
                  {"logit_logprob", {steps, free}},
                  {"queries", {steps, layers, query_heads, head_dim}},
                  {"keys", {steps, layers, kv_heads, head_dim}},
                  {"values", {steps, layers, kv_heads, head_dim}},
                  {"attention_row", {steps, layers, query_heads, planned}},
                  {"logits_attention", {steps, layers, query_heads, planned}}},
                 false, true);
  return rules;
}

const std::vector<Rule>& snapshot_rules() {
  static const std::vector<Rule> rules = {{"step", {free}},
                                          {"attention_sum", {free, layers, query_heads, planned}},
                                          {"slot_token", {free, layers, kv_heads, planned}},
                                          {"slot_position", {free, layers, kv_heads, planned}},
                                          {"slot_multiplicity", {free, layers, kv_heads, planned}},
                                          {"keys", {free, layers, kv_heads, planned, head_dim}},
                                          {"values", {free, layers, kv_heads, planned, head_dim}}};
  return rules;
}

struct Range {
  std::int64_t lowest = 0;
  std::int64_t highest = 0;
};

Range range_of(Axis axis, const CaptureIndex& index) {
  const auto exactly = [](std::int64_t size) { return Range{size, size}; };
  switch (axis) {
    case layers:
      return exactly(static_cast<std::int64_t>(index.layers.size()));
    case query_heads:
      return exactly(index.stored_query_heads());
    case kv_heads:
      return exactly(index.stored_kv_heads());
    case head_dim:
      return exactly(index.shape.head_dim);
    case hidden:
      return exactly(index.shape.hidden_dim);
    case vocabulary:
      return exactly(index.shape.vocabulary);
    case hooked:
      return exactly(static_cast<std::int64_t>(index.hook_tokens.size()));
    case prompt:
      return exactly(index.prompt_tokens);
    case planned:
      return {index.prompt_tokens, index.tokens};
    case stored:
      return exactly(index.prompt_tokens - index.first_query);
    case steps:  // a live file may hold rows that are not committed yet
      return {index.steps, std::max(index.steps, index.tokens - index.prompt_tokens)};
    case free:
      break;
  }
  return {0, std::int64_t{1} << 30};
}

std::string text_of(const Rule& rule, const CaptureIndex& index) {
  std::vector<std::string> sizes;
  for (const Axis axis : rule.axes) {
    const Range range = range_of(axis, index);
    sizes.push_back(axis == free ? "any"
                    : range.lowest == range.highest
                        ? fmt::format("{}", range.lowest)
                        : fmt::format("{} to {}", range.lowest, range.highest));
  }
  return fmt::format("[{}]", fmt::join(sizes, ", "));
}

const Rule* find_rule(std::string_view path) {
  std::span<const Rule> rules;
  if (path.starts_with("reduce/group_")) {
    rules = group_rules();
  } else if (path.starts_with("reduce/")) {
    rules = reduce_rules();
  } else if (path.starts_with("layers/")) {
    rules = layer_rules();
  } else if (path.starts_with("snapshots/")) {
    rules = snapshot_rules();
  } else if (path.starts_with("model/")) {
    rules = model_rules();
  } else if (path.starts_with("steps/")) {
    rules = step_rules();
  }
  const std::string_view name = path.substr(path.rfind('/') + 1);
  const auto found =
      std::find_if(rules.begin(), rules.end(), [&](const Rule& rule) { return rule.name == name; });
  return found == rules.end() ? nullptr : &*found;
}

}  // namespace

void check_capture_extent(const CaptureIndex& index, const std::string& path,
                          const h5::Extent& extent) {
  const Rule* rule = find_rule(path);
  if (rule == nullptr) {
    return;
  }
  bool good = extent.size() == rule->axes.size();
  for (std::size_t axis = 0; good && axis < extent.size(); ++axis) {
    const Range range = range_of(rule->axes[axis], index);
    good = extent[axis] >= range.lowest && extent[axis] <= range.highest;
  }
  KVSCOPE_CHECK(good, ErrorCode::corrupt_file,
                fmt::format("shape {} where the file's sizes ask for {}", h5::extent_text(extent),
                            text_of(*rule, index)),
                fmt::format("{}, /{}", index.path, path), "capture again");
}

std::string how_to_capture(const std::string& dataset) {
  const std::string name = dataset.substr(dataset.rfind('/') + 1);
  for (int index = 0; index < hook_points; ++index) {
    const auto point = static_cast<HookPoint>(index);
    if (name == hook_name(point) && point != HookPoint::queries && point != HookPoint::keys &&
        point != HookPoint::values && point != HookPoint::keys_pre_rope) {
      return "capture again with --hooks " + name;
    }
  }
  for (const char* rows : {"logits_attention", "keys_gradient"}) {
    if (name == rows) {
      return fmt::format("capture again with --hooks {}", rows);
    }
  }
  if (dataset.starts_with("reduce/group_")) {
    return "capture again with --group-reduce " + dataset.substr(13, dataset.find('/', 13) - 13);
  }
  if (name == "attention_sum_sampled") {
    return "capture again with --sample-queries K";
  }
  for (const char* reduction :
       {"head_output_norm", "received_by_segment", "attention_row", "evicted_mass"}) {
    if (name == reduction) {
      return fmt::format("capture again with --reductions {}", reduction);
    }
  }
  if (dataset.starts_with("snapshots/")) {
    return "capture again with --snapshots every:N";
  }
  if (dataset.starts_with("layers/")) {
    return dataset.ends_with("/attention") ? "capture again with --attention-maps"
           : dataset.ends_with("/queries")
               ? "capture again with --profile qkv (newest queries) or full"
               : "capture again with --profile qkv or full";
  }
  if (dataset.starts_with("steps/")) {
    return "capture again with --new-tokens N and --profile qkv or full";
  }
  if (dataset.find("window_") != std::string::npos) {
    return "capture again with --window W naming this window";
  }
  if (dataset.ends_with("_l1")) {
    return "capture again with --profile qkv or full";
  }
  return "capture again with --profile scores, qkv or full";
}

}  // namespace kvscope
