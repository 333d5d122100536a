#include "capture_attributes.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "attributes.h"
#include "h5.h"

namespace kvscope {
namespace {

std::vector<double> to_reals(const std::vector<int>& values) {
  return {values.begin(), values.end()};
}

int checked_size(hid_t file, const char* name, int lowest, int highest, const std::string& path) {
  const std::int64_t value = h5::get_number(file, name, -1);
  KVSCOPE_CHECK(value >= lowest && value <= highest, ErrorCode::corrupt_file,
                fmt::format("{} is {}; it must lie in {} to {}", name, value, lowest, highest),
                path);
  return static_cast<int>(value);
}

std::string rope_json(const RopeParameters& rope) {
  return fmt::format(
      R"({{"type":"default","base":{},"dims":{},"attention_factor":{},"inverse_frequency":[{}]}})",
      rope.base, rope.dims, rope.attention_factor, fmt::join(rope.inverse_frequency, ","));
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
  h5::set_text(file, "rope", rope_json(shape.rope));
  h5::set_real(file, "rope_base", shape.rope.base);
  h5::set_number(file, "rope_dims", shape.rope.dims);
  h5::set_real(file, "rope_attention_factor", shape.rope.attention_factor);
  h5::set_reals(file, "rope_inverse_frequency", shape.rope.inverse_frequency);
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
  shape.rope.base = h5::get_real(file, "rope_base", 10000.0);
  shape.rope.dims = checked_size(file, "rope_dims", 0, shape.head_dim, path);
  shape.rope.attention_factor = h5::get_real(file, "rope_attention_factor", 1.0);
  shape.rope.inverse_frequency = h5::get_reals(file, "rope_inverse_frequency");
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
