#include "kvscope/scene/texts.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "kvscope/scene/fate_counts.h"
#include "kvscope/scene/inspector.h"
#include "kvscope/scene/moment.h"
#include "kvscope/scene/token_strip.h"

namespace kvscope {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char character : text) {
    out += character == '"' ? "\"\"" : std::string(1, character);
  }
  return out + "\"";
}

std::string finite(float value) {
  return std::isfinite(value) ? fmt::format("{}", value) : std::string();
}

int bytes_per_number(const std::string& dtype) {
  return dtype.find("16") != std::string::npos ? 2 : 4;
}

}  // namespace

std::string grouped_digits(std::int64_t number) {
  std::string digits = fmt::format("{}", number < 0 ? -number : number);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<std::size_t>(at), ",");
  }
  return number < 0 ? "-" + digits : digits;
}

std::string slots_as_bytes(const Scene& scene, const CacheForm& form, std::int64_t held,
                           std::int64_t whole) {
  const int head_dim = scene.capture.shape.head_dim;
  const int number = bytes_per_number(scene.capture.cache_dtype);
  const auto bytes =
      static_cast<double>(bytes_held(held, whole, slot_bytes(form, head_dim, number)));
  return bytes <= 0                 ? std::string()
         : bytes >= 1024.0 * 1024.0 ? fmt::format("{:.1f} MiB", bytes / (1024.0 * 1024.0))
                                    : fmt::format("{:.1f} KiB", bytes / 1024.0);
}

std::string headline(const Scene& scene) {
  if (scene.layers() == 0) {
    return scene.spectrum ? fmt::format("{}   projection weights of {} layers",
                                        scene.spectrum->model_name, scene.spectrum->layers.size())
                          : std::string("nothing is open");
  }
  const ModelShape& shape = scene.capture.shape;
  const int generated = scene.token_count() - scene.tokens.prompt_tokens;
  return fmt::format("{}   {} layers × {} KV heads ({} query heads)   {} tokens{}   profile {}",
                     scene.capture.model_name, shape.layers, shape.kv_heads, shape.query_heads,
                     grouped_digits(scene.token_count()),
                     generated > 0 ? fmt::format(", {} of them generated", generated) : "",
                     profile_name(scene.capture.profile));
}

std::string place_title(const Scene& scene, const State& state) {
  if (scene.token_count() == 0) {
    return "weights";
  }
  std::string title =
      fmt::format("'{}' (token {}), layer {}", shown_token(scene.tokens.text(state.token)),
                  state.token, scene.layer_of(state.layer));
  if (!state.kv_heads.empty()) {
    title += ", " + head_list(state.kv_heads);
  }
  if (!scene.decisions.empty()) {
    title += ", " + scene.decisions[static_cast<std::size_t>(state.a)].title;
  }
  return title;
}

std::string inspection_text(const Scene& scene, const State& state) {
  const Inspection inspection = inspect_token(scene, state);
  std::string text = fmt::format(
      "'{}' token {} id {} position {} {}, {}; layer {}\n", inspection.text, inspection.token,
      inspection.id, inspection.position, inspection.segment, inspection.kind, inspection.layer);
  for (const WhyRow& row : inspection.rows) {
    text += fmt::format("{}, KV head {}: {}\n", row.title, row.kv_head, why_text(row));
  }
  return text;
}

std::string export_csv(const Scene& scene, const State& state) {
  std::string csv = "method,keep,layer,kv_head,token,text,fate,reason,removed_at_tokens,score\r\n";
  if (scene.decisions.empty()) {
    return csv;
  }
  const SceneDecision& entry = scene.decisions[static_cast<std::size_t>(state.a)];
  const LayerDecision& layer = entry.decision.layers[static_cast<std::size_t>(state.layer)];
  const std::string letters = letters_at(entry, state.layer, state);
  const std::string place = fmt::format("{},{},{}", quoted(entry.decision.method),
                                        quoted(entry.decision.keep), layer.layer);
  for (const int kv_head : selected_heads(scene, state)) {
    for (int token = 0; token < layer.tokens; ++token) {
      const std::size_t cell = layer.cell(kv_head, token);
      const std::uint32_t event = layer.removed_at[cell];
      csv += fmt::format("{},{},{},{},{},{},{},{}\r\n", place, kv_head, token,
                         quoted(shown_token(scene.tokens.text(token))), letters[cell],
                         reason_name(layer.reason[cell]),
                         event < entry.decision.events.size()
                             ? fmt::format("{}", entry.decision.events[event].tokens_seen)
                             : std::string(),
                         layer.scores.empty() ? std::string() : finite(layer.scores[cell]));
    }
  }
  return csv;
}

}  // namespace kvscope
