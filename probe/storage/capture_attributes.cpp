#include "capture_attributes.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>

#include "attributes.h"
#include "h5.h"

namespace kvscope {
namespace {

std::vector<double> to_reals(const std::vector<int>& values) {
  return {values.begin(), values.end()};
}

int checked_size(hid_t file, const std::string& name, int lowest, int highest,
                 const std::string& path) {
  const std::int64_t value = h5::get_number(file, name, -1);
  KVSCOPE_CHECK(value >= lowest && value <= highest, ErrorCode::corrupt_file,
                fmt::format("{} is {}; it must lie in {} to {}", name, value, lowest, highest),
                path);
  return static_cast<int>(value);
}

std::string rope_json(const RopeParameters& rope) {
  return fmt::format(
      R"({{"type":"{}","base":{},"dims":{},"attention_factor":{},"inverse_frequency":[{}]}})",
      rope.scaling, rope.base, rope.dims, rope.attention_factor,
      fmt::join(rope.inverse_frequency, ","));
}

/// One rotation under attributes PREFIX, PREFIX_base, ...
void write_rope(hid_t file, const std::string& prefix, const RopeParameters& rope) {
  h5::set_text(file, prefix, rope_json(rope));
  h5::set_text(file, prefix + "_scaling", rope.scaling);
  h5::set_real(file, prefix + "_base", rope.base);
  h5::set_number(file, prefix + "_dims", rope.dims);
  h5::set_real(file, prefix + "_attention_factor", rope.attention_factor);
  h5::set_reals(file, prefix + "_inverse_frequency", rope.inverse_frequency);
  if (rope.growth != RopeGrowth::fixed) {
    h5::set_number(file, prefix + "_growth", static_cast<int>(rope.growth));
    h5::set_number(file, prefix + "_original_context", rope.original_context);
    h5::set_real(file, prefix + "_growth_factor", rope.growth_factor);
    h5::set_reals(file, prefix + "_long_inverse_frequency", rope.long_inverse_frequency);
  }
}

RopeParameters read_rope(hid_t file, const std::string& prefix, int head_dim,
                         const std::string& path) {
  RopeParameters rope;
  rope.scaling = h5::get_text(file, prefix + "_scaling");
  rope.base = h5::get_real(file, prefix + "_base", 10000.0);
  rope.dims = checked_size(file, prefix + "_dims", 0, head_dim, path);
  rope.attention_factor = h5::get_real(file, prefix + "_attention_factor", 1.0);
  rope.inverse_frequency = h5::get_reals(file, prefix + "_inverse_frequency");
  rope.growth = static_cast<RopeGrowth>(
      std::clamp<std::int64_t>(h5::get_number(file, prefix + "_growth", 0), 0, 2));
  rope.original_context = static_cast<int>(
      std::clamp<std::int64_t>(h5::get_number(file, prefix + "_original_context", 0), 0, 1 << 30));
  rope.growth_factor = h5::get_real(file, prefix + "_growth_factor", 1.0);
  rope.long_inverse_frequency = h5::get_reals(file, prefix + "_long_inverse_frequency");
  return rope;
}

/// Layers that rotate differently: `layer_rope` [layers] says which of rope_kind_0, ... each uses.
void write_layer_ropes(hid_t file, const std::vector<RopeParameters>& ropes) {
  std::vector<std::string> kinds;
  std::vector<double> kind_of;
  for (const RopeParameters& rope : ropes) {
    const std::string text = rope_json(rope);
    const auto found = std::find(kinds.begin(), kinds.end(), text);
    kind_of.push_back(static_cast<double>(found - kinds.begin()));
    if (found == kinds.end()) {
      write_rope(file, fmt::format("rope_kind_{}", kinds.size()), rope);
      kinds.push_back(text);
    }
  }
  if (!kind_of.empty()) {
    h5::set_reals(file, "layer_rope", kind_of);
  }
}

std::vector<RopeParameters> read_layer_ropes(hid_t file, int head_dim, const std::string& path) {
  std::vector<RopeParameters> ropes;
  std::map<int, RopeParameters> kinds;
  for (const double kind : h5::get_reals(file, "layer_rope")) {
    KVSCOPE_CHECK(kind >= 0 && kind < 65536.0, ErrorCode::corrupt_file,
                  "a layer's rotation is out of range", path);
    const int index = static_cast<int>(kind);
    if (!kinds.contains(index)) {
      kinds[index] = read_rope(file, fmt::format("rope_kind_{}", index), head_dim, path);
    }
    ropes.push_back(kinds[index]);
  }
  return ropes;
}

void write_shape(hid_t file, const ModelShape& shape) {
  h5::set_number(file, "layers", shape.layers);
  h5::set_number(file, "query_heads", shape.query_heads);
  h5::set_number(file, "kv_heads", shape.kv_heads);
  h5::set_number(file, "head_dim", shape.head_dim);
  h5::set_number(file, "hidden_dim", shape.hidden_dim);
  h5::set_number(file, "vocabulary", shape.vocabulary);
  h5::set_real(file, "attention_scale", shape.attention_scale);
  h5::set_real(file, "logit_softcap", shape.logit_softcap);
  h5::set_reals(file, "layer_windows", to_reals(shape.layer_windows));
  write_rope(file, "rope", shape.rope);
  write_layer_ropes(file, shape.layer_ropes);
}

ModelShape read_shape(hid_t file, const std::string& path) {
  ModelShape shape;
  shape.layers = checked_size(file, "layers", 1, 1 << 16, path);
  shape.query_heads = checked_size(file, "query_heads", 1, 1 << 16, path);
  shape.kv_heads = checked_size(file, "kv_heads", 1, 1 << 16, path);
  shape.head_dim = checked_size(file, "head_dim", 1, 1 << 16, path);
  shape.hidden_dim = checked_size(file, "hidden_dim", 1, 1 << 24, path);
  shape.vocabulary =
      static_cast<int>(std::clamp<std::int64_t>(h5::get_number(file, "vocabulary", 0), 0, 1 << 30));
  shape.attention_scale = h5::get_real(file, "attention_scale", 0);
  shape.logit_softcap = h5::get_real(file, "logit_softcap", 0);
  for (const double window : h5::get_reals(file, "layer_windows")) {
    KVSCOPE_CHECK(window >= 0 && window < 2147483648.0, ErrorCode::corrupt_file,
                  "a layer window is out of range", path);
    shape.layer_windows.push_back(static_cast<int>(window));
  }
  shape.rope = read_rope(file, "rope", shape.head_dim, path);
  shape.layer_ropes = read_layer_ropes(file, shape.head_dim, path);
  check_shape(shape, path);
  return shape;
}

struct TextField {
  const char* name;
  std::string CaptureIndex::*member;
};

constexpr TextField text_fields[] = {{"created_by", &CaptureIndex::created_by},
                                     {"created_utc", &CaptureIndex::created_utc},
                                     {"model_name", &CaptureIndex::model_name},
                                     {"model_hash", &CaptureIndex::model_hash},
                                     {"architecture", &CaptureIndex::architecture},
                                     {"weights_dtype", &CaptureIndex::weights_dtype},
                                     {"compute_dtype", &CaptureIndex::compute_dtype},
                                     {"cache_dtype", &CaptureIndex::cache_dtype},
                                     {"device", &CaptureIndex::device},
                                     {"attention_kernel", &CaptureIndex::attention_kernel},
                                     {"attached_to", &CaptureIndex::attached_to},
                                     {"method", &CaptureIndex::method},
                                     {"budget", &CaptureIndex::budget},
                                     {"request", &CaptureIndex::request_json},
                                     {"sampling", &CaptureIndex::sampling_json},
                                     {"torch", &CaptureIndex::torch},
                                     {"nonfinite_weights", &CaptureIndex::nonfinite_weights},
                                     {"notes", &CaptureIndex::notes},
                                     {"capture_hash", &CaptureIndex::capture_hash}};

}  // namespace

void write_index(hid_t file, const CaptureIndex& index) {
  const h5::Session session;
  h5::set_format(file, "kvscope.capture");
  CaptureIndex dated = index;
  if (dated.created_utc.empty()) {
    dated.created_utc = fmt::format(
        "{:%Y-%m-%dT%H:%M:%SZ}",
        fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
  }
  for (const TextField& field : text_fields) {
    h5::set_text(file, field.name, dated.*field.member);
  }
  h5::set_text(file, "profile", profile_name(index.profile));
  write_shape(file, index.shape);
  h5::set_number(file, "prompt_tokens", index.prompt_tokens);
  h5::set_number(file, "context_tokens", index.context_tokens);
  h5::set_number(file, "planned_tokens", index.tokens);
  h5::set_number(file, "first_query", index.first_query);
  h5::set_reals(file, "windows", to_reals(index.windows));
}

CaptureIndex read_index(hid_t file, const std::string& path) {
  const h5::Session session;
  h5::check_format(file, "kvscope.capture", path);
  CaptureIndex index;
  index.path = path;
  index.version_major = static_cast<int>(h5::get_number(file, "version_major", 1));
  index.version_minor = static_cast<int>(h5::get_number(file, "version_minor", 0));
  for (const TextField& field : text_fields) {
    index.*field.member = h5::get_text(file, field.name);
  }
  try {
    index.profile = parse_profile(h5::get_text(file, "profile"));
  } catch (const Error& error) {
    throw Error(ErrorCode::corrupt_file, error.message(), path);
  }
  index.shape = read_shape(file, path);
  constexpr int most_tokens = std::numeric_limits<int>::max() / 2;
  index.prompt_tokens = checked_size(file, "prompt_tokens", 1, most_tokens, path);
  index.context_tokens = checked_size(file, "context_tokens", 0, index.prompt_tokens, path);
  index.tokens = checked_size(file, "planned_tokens", index.prompt_tokens, most_tokens, path);
  index.first_query = checked_size(file, "first_query", 0, index.prompt_tokens, path);
  for (const double window : h5::get_reals(file, "windows")) {
    KVSCOPE_CHECK(window >= 1 && window <= most_tokens, ErrorCode::corrupt_file,
                  "an observation window is out of range", path);
    index.windows.push_back(static_cast<int>(window));
  }
  return index;
}

}  // namespace kvscope
