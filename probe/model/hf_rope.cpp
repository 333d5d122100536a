#include "hf_rope.h"

#include <fmt/format.h>

#include <limits>

#include "kvscope/core/error.h"
#include "rope_tables.h"

namespace kvscope {
namespace {

constexpr std::int64_t longest = std::numeric_limits<int>::max() / 2;

std::vector<double> numbers(const JsonFields& fields, const std::string& name) {
  if (!fields.has(name)) {
    return {};
  }
  std::vector<double> values;
  for (const nlohmann::json& value : fields.array(name)) {
    if (!value.is_number() || values.size() > 4096) {
      fields.refuse(name, "it must be a short list of numbers");
    }
    values.push_back(value.get<double>());
  }
  return values;
}

/// One rotation from `scaling` (rope_scaling, rope_parameters or a part of it).
RopeRequest read_request(const JsonFields& fields, const JsonFields& scaling, double base,
                         const ModelConfig& config) {
  RopeRequest request;
  request.base = scaling.number("rope_theta", base);
  const double part =
      scaling.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0));
  if (!(part > 0 && part <= 1)) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("field 'partial_rotary_factor' is {}; it must lie in 0 to 1", part),
                fields.where());
  }
  request.dims = static_cast<int>(config.shape.head_dim * part);
  request.context_length = config.context_length;
  request.type = scaling.text("rope_type", scaling.text("type", "default"));
  if (config.architecture == "phi3" && (request.type == "su" || request.type == "yarn")) {
    request.type = "longrope";  // names that early Phi-3 files gave it
  }
  request.original_context = static_cast<int>(scaling.integer(
      "original_max_position_embeddings", 1, longest,
      fields.integer("original_max_position_embeddings", 1, longest, config.context_length)));
  const bool stretched = request.type == "longrope" || request.type == "yarn";
  request.factor = scaling.number(
      "factor",
      stretched ? static_cast<double>(config.context_length) / request.original_context : 1.0);
  if (scaling.has("attention_factor")) {
    request.attention_factor = scaling.number("attention_factor", 1.0);
  }
  request.low_frequency_factor = scaling.number("low_freq_factor", 1.0);
  request.high_frequency_factor = scaling.number("high_freq_factor", 4.0);
  request.beta_fast = scaling.number("beta_fast", 32.0);
  request.beta_slow = scaling.number("beta_slow", 1.0);
  request.mscale = scaling.number("mscale", 0.0);
  request.mscale_all_dim = scaling.number("mscale_all_dim", 0.0);
  request.truncate = scaling.flag("truncate", true);
  request.short_factors = numbers(scaling, "short_factor");
  request.long_factors = numbers(scaling, "long_factor");
  return request;
}

RopeParameters rotation(const JsonFields& fields, const JsonFields& scaling, double base,
                        const ModelConfig& config) {
  const RopeRequest request = read_request(fields, scaling, base, config);
  try {
    return make_rope(request, fields.where());
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("field '{}': {}", scaling.named("rope_type"), error.message()),
                error.where(), error.fix());
  }
}

/// Layers that do not rotate (SmolLM3): 0 in no_rope_layers, or every fourth.
void read_unrotated(const JsonFields& fields, ModelShape& shape) {
  const auto interval = fields.integer("no_rope_layer_interval", 1, 1 << 20, 4);
  for (int layer = 0; layer < shape.layers; ++layer) {
    bool rotates = (layer + 1) % interval != 0;
    if (fields.has("no_rope_layers")) {
      const nlohmann::json& list = fields.array("no_rope_layers");
      if (list.size() != static_cast<std::size_t>(shape.layers)) {
        fields.refuse("no_rope_layers", fmt::format("there are {} layers", shape.layers));
      }
      const nlohmann::json& entry = list[static_cast<std::size_t>(layer)];
      if (!entry.is_number_integer() && !entry.is_boolean()) {
        fields.refuse("no_rope_layers", "its entries must be 0 or 1");
      }
      rotates = entry.is_boolean() ? entry.get<bool>() : entry.get<std::int64_t>() != 0;
    }
    shape.layer_ropes.push_back(rotates ? shape.rope : RopeParameters{});
  }
}

}  // namespace

void read_hf_rope(const JsonFields& fields, ModelConfig& config) {
  static const nlohmann::json nothing = nlohmann::json::object();
  const JsonFields none(nothing, fields.where(), "rope_scaling.");
  const bool fifth = fields.has("rope_parameters");
  const JsonFields parameters = fifth                        ? fields.object("rope_parameters")
                                : fields.has("rope_scaling") ? fields.object("rope_scaling")
                                                             : none;
  ModelShape& shape = config.shape;
  const bool two = config.architecture == "gemma3";
  const bool nested = parameters.has("full_attention") || parameters.has("sliding_attention");
  const double base = fields.number("rope_theta", two ? 1e6 : 1e4);
  if (nested && !two) {
    fields.unsupported("rope_parameters", "one rotation for all layers is what this family has");
  }
  if (!two) {
    shape.rope = rotation(fields, parameters, base, config);
    if (config.architecture == "smollm3") {
      read_unrotated(fields, shape);
    }
    return;
  }
  const auto part = [&](const char* name) {
    return nested && parameters.has(name) ? parameters.object(name) : none;
  };
  shape.rope = rotation(fields, nested ? part("full_attention") : parameters, base, config);
  const RopeParameters local = rotation(fields, part("sliding_attention"),
                                        fields.number("rope_local_base_freq", 1e4), config);
  for (int layer = 0; layer < shape.layers; ++layer) {
    shape.layer_ropes.push_back(shape.window_of(layer) > 0 ? local : shape.rope);
  }
}

}  // namespace kvscope
