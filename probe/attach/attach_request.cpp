#include "kvscope/attach/attach_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvscope/capture/room.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/file_system.h"

namespace kvscope {
namespace {

using Json = nlohmann::json;

/// Fields of one JSON object, each of which must be asked for.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) {
      throw Error(ErrorCode::usage, "no JSON object", where_);
    }
  }

  template <typename T>
  void read(const char* name, T& value) {
    left_.erase(name);
    if (!object_.contains(name)) {
      return;
    }
    try {
      value = object_.at(name).get<T>();
    } catch (const Json::exception&) {
      throw Error(ErrorCode::usage, fmt::format("'{}' has a wrong type", name), where_);
    }
  }
  const Json* part(const char* name) {
    left_.erase(name);
    return object_.contains(name) ? &object_.at(name) : nullptr;
  }
  void done() const {
    for (const auto& [name, value] : object_.items()) {
      if (left_.contains(name)) {
        throw Error(ErrorCode::usage, fmt::format("there is no option '{}'", name), where_);
      }
    }
  }

 private:
  static std::map<std::string, bool> names_of(const Json& object) {
    std::map<std::string, bool> names;
    for (const auto& [name, value] : object.items()) {
      names[name] = true;
    }
    return names;
  }
  const Json& object_;
  std::string where_;
  std::map<std::string, bool> left_ = names_of(object_);
};

RopeParameters read_rope(const Json& object) {
  Fields fields(object, "model.ropes");
  RopeParameters rope;
  int growth = 0;
  fields.read("base", rope.base);
  fields.read("dims", rope.dims);
  fields.read("inverse_frequency", rope.inverse_frequency);
  fields.read("attention_factor", rope.attention_factor);
  fields.read("scaling", rope.scaling);
  fields.read("growth", growth);
  fields.read("original_context", rope.original_context);
  fields.read("growth_factor", rope.growth_factor);
  fields.read("long_inverse_frequency", rope.long_inverse_frequency);
  fields.done();
  rope.growth = static_cast<RopeGrowth>(std::clamp(growth, 0, 2));
  return rope;
}

void read_shape(Fields& fields, ModelShape& shape) {
  fields.read("layers", shape.layers);
  fields.read("query_heads", shape.query_heads);
  fields.read("kv_heads", shape.kv_heads);
  fields.read("head_dim", shape.head_dim);
  fields.read("hidden_dim", shape.hidden_dim);
  fields.read("vocabulary", shape.vocabulary);
  fields.read("attention_scale", shape.attention_scale);
  fields.read("logit_softcap", shape.logit_softcap);
  fields.read("layer_windows", shape.layer_windows);
  std::vector<RopeParameters> kinds;
  if (const Json* ropes = fields.part("ropes"); ropes != nullptr && ropes->is_array()) {
    for (const Json& rope : *ropes) {
      kinds.push_back(read_rope(rope));
    }
  }
  std::vector<int> kind_of_layer;
  fields.read("layer_rope", kind_of_layer);
  const auto in_range = [&](int kind) { return kind >= 0 && kind < std::ssize(kinds); };
  KVSCOPE_CHECK(!kinds.empty() && std::all_of(kind_of_layer.begin(), kind_of_layer.end(), in_range),
                ErrorCode::usage, "layers rotate in a way that 'ropes' does not hold",
                "model.ropes");
  shape.rope = kinds.front();
  if (kinds.size() > 1) {
    for (const int kind : kind_of_layer) {
      shape.layer_ropes.push_back(kinds[static_cast<std::size_t>(kind)]);
    }
  }
}

CaptureIndex read_model(const Json& object) {
  Fields fields(object, "model");
  CaptureIndex index;
  fields.read("name", index.model_name);
  fields.read("hash", index.model_hash);
  fields.read("architecture", index.architecture);
  fields.read("weights_dtype", index.weights_dtype);
  fields.read("compute_dtype", index.compute_dtype);
  fields.read("cache_dtype", index.cache_dtype);
  fields.read("device", index.device);
  fields.read("attention_kernel", index.attention_kernel);
  fields.read("attached_to", index.attached_to);
  fields.read("method", index.method);
  fields.read("budget", index.budget);
  fields.read("sampling", index.sampling_json);
  fields.read("notes", index.notes);
  read_shape(fields, index.shape);
  fields.done();
  try {
    check_shape(index.shape, "model");
  } catch (const Error& error) {
    throw Error(ErrorCode::usage, error.message(), "model", error.fix());
  }
  const auto layers = static_cast<std::size_t>(index.shape.layers);
  const auto fits = [&](std::size_t size) { return size == 0 || size == layers; };
  KVSCOPE_CHECK(fits(index.shape.layer_windows.size()) && fits(index.shape.layer_ropes.size()),
                ErrorCode::usage, fmt::format("lists of layers need {} entries", layers), "model");
  return index;
}

void read_hooks(Fields& fields, CaptureRequest& capture) {
  std::vector<std::string> names;
  fields.read("hooks", names);
  for (const std::string& name : names) {
    if (name == "attention") {
      capture.attention_maps = true;
    } else if (name == "logits_attention") {
      capture.logit_maps = true;
    } else {
      capture.hooks.push_back(parse_hook(name));
    }
  }
  std::sort(capture.hooks.begin(), capture.hooks.end());
  capture.hooks.erase(std::unique(capture.hooks.begin(), capture.hooks.end()), capture.hooks.end());
}

void read_capture(Fields& fields, AttachRequest& request) {
  CaptureRequest& capture = request.capture;
  std::string profile;
  std::string groups;
  fields.read("profile", profile);
  fields.read("windows", capture.windows);
  fields.read("layers", request.layers);
  fields.read("query_heads", capture.query_heads);
  fields.read("kv_heads", capture.kv_heads);
  fields.read("steps", capture.steps);
  fields.read("hook_tokens", capture.hook_tokens);
  fields.read("stored_queries", capture.stored_queries);
  fields.read("new_tokens", capture.new_tokens);
  fields.read("head_output_norm", capture.head_output_norm);
  fields.read("received_by_segment", capture.received_by_segment);
  fields.read("attention_row", capture.attention_row);
  fields.read("evicted_mass", capture.evicted_mass);
  fields.read("snapshots", capture.snapshots);
  fields.read("group_reduce", groups);
  fields.read("sample_queries", capture.sample_queries);
  fields.read("seed", capture.seed);
  fields.read("top_keys", capture.top_keys);
  fields.read("pooled_block", capture.pooled_block);
  fields.read("compress", capture.compress);
  fields.read("force", capture.force);
  fields.read("never_drop", capture.never_drop);
  fields.read("drop_bulk", capture.drop_bulk);
  fields.read("live", capture.live);
  read_hooks(fields, capture);
  capture.group_reduces = parse_group_reduces(groups, "group_reduce");
  if (!profile.empty()) {
    request.profile = parse_profile(profile);
  }
}

void check_numbers(const CaptureRequest& capture) {
  const auto within = [](int value, int low, int high, const char* name) {
    KVSCOPE_CHECK(value >= low && value <= high, ErrorCode::usage,
                  fmt::format("{} is {}; it must lie in {} to {}", name, value, low, high), name);
  };
  within(capture.new_tokens, 0, 1 << 20, "new_tokens");
  within(capture.stored_queries, 1, 1 << 30, "stored_queries");
  within(capture.top_keys, 0, 4096, "top_keys");
  within(capture.pooled_block, 0, 1 << 20, "pooled_block");
  within(capture.sample_queries, 0, 1 << 20, "sample_queries");
  KVSCOPE_CHECK(!capture.windows.empty() && capture.windows.front() >= 1 &&
                    std::is_sorted(capture.windows.begin(), capture.windows.end()),
                ErrorCode::usage, "observation windows must be positive and ascending", "windows",
                "for instance [32, 64]");
}

std::string mebibytes(std::int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

void choose_profile(AttachRequest& request, const TokenTable& prompt,
                    std::vector<std::string>& notes) {
  CaptureRequest& capture = request.capture;
  if (request.profile) {
    capture.profile = *request.profile;
    return;
  }
  capture.profile = Profile::qkv;
  const std::int64_t bytes = price_capture(capture, request.model.shape, prompt.prompt_tokens,
                                           cache_element(request.model.cache_dtype))
                                 .disk_bytes;
  if (bytes >= default_profile_limit) {
    capture.profile = Profile::window;
    notes.push_back(fmt::format(
        "profile: window (qkv would take {}; ask for it with profile='qkv')", mebibytes(bytes)));
  }
}

void check_price(const AttachRequest& request, const TokenTable& prompt) {
  const ModelShape& shape = request.model.shape;
  const CapturePrice price = price_capture(request.capture, shape, prompt.prompt_tokens,
                                           cache_element(request.model.cache_dtype));
  KVSCOPE_CHECK(
      request.confirmed || price.disk_bytes <= unconfirmed_limit, ErrorCode::usage,
      fmt::format("the capture would take {}", mebibytes(price.disk_bytes)), request.path,
      "choose profile 'window' or 'scores', fewer layers, or confirm with confirmed=True");
  check_room(request.capture, shape, prompt.prompt_tokens, cache_element(request.model.cache_dtype),
             room_for(request.path, request.confirmed));
}

}  // namespace

AttachRequest parse_attach_request(const std::string& json) {
  Json parsed;
  try {
    parsed = Json::parse(json);
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::usage, fmt::format("the request is no JSON: {}", error.what()),
                "request");
  }
  Fields fields(parsed, "request");
  AttachRequest request;
  request.capture.drop_bulk = true;  // somebody else's run does not wait for our disk
  fields.read("path", request.path);
  KVSCOPE_CHECK(!request.path.empty(), ErrorCode::usage, "'path' is missing", "request");
  fields.read("confirmed", request.confirmed);
  fields.read("live_on_network", request.live_on_network);
  read_capture(fields, request);
  check_numbers(request.capture);
  const Json* model = fields.part("model");
  KVSCOPE_CHECK(model != nullptr, ErrorCode::usage, "'model' is missing", "request");
  request.model = read_model(*model);
  fields.done();
  return request;
}

CaptureIndex settle(AttachRequest& request, const TokenTable& prompt,
                    std::vector<std::string>& notes) {
  CaptureRequest& capture = request.capture;
  const ModelShape& shape = request.model.shape;
  capture.layers = select_numbers(request.layers, shape.layers, "layers");
  capture.hook_tokens = with_segments(capture.hook_tokens, prompt, "hook_tokens");
  choose_profile(request, prompt, notes);
  check_price(request, prompt);
  const LivePlan plan =
      plan_live(shared_file_system(request.path), capture.live, request.live_on_network);
  if (!plan.warning.empty()) {
    notes.push_back(plan.warning);
  }
  capture.live = plan.live;
  CaptureIndex index = request.model;
  index.notes += (index.notes.empty() || plan.note.empty() ? "" : "; ") + plan.note;
  index.created_by = "kvscope " KVSCOPE_VERSION;
  index.layers = capture.layers;
  index.windows = capture.windows;
  index.profile = capture.profile;
  index.prompt_tokens = prompt.prompt_tokens;
  index.context_tokens = prompt.context_tokens;
  index.tokens = prompt.prompt_tokens + capture.new_tokens;
  const bool newest = capture.profile == Profile::qkv;
  index.first_query = capture.profile == Profile::full ? 0
                      : newest ? std::max(0, prompt.prompt_tokens - capture.stored_queries)
                               : prompt.prompt_tokens;
  index.request_json = request_json(capture);
  index.capture_hash = sequence_hash(index.model_hash, prompt);
  return index;
}

}  // namespace kvscope
