#include "kvscope/scene/scene.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvscope/core/error.h"
#include "kvscope/scene/moment.h"

namespace kvscope {
namespace {

/// Length of the well-formed UTF-8 sequence at `at`, 0 if it is none.
std::size_t sequence_length(const std::string& bytes, std::size_t at) {
  const auto lead = static_cast<unsigned char>(bytes[at]);
  const std::size_t length = lead < 0x80                    ? 1
                             : lead >= 0xC2 && lead < 0xE0  ? 2
                             : lead >= 0xE0 && lead < 0xF0  ? 3
                             : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                            : 0;
  if (length == 0 || at + length > bytes.size()) {
    return 0;
  }
  for (std::size_t next = 1; next < length; ++next) {
    if ((static_cast<unsigned char>(bytes[at + next]) & 0xC0) != 0x80) {
      return 0;
    }
  }
  return length;
}

void check_matches(const CaptureIndex& capture, const Decision& decision) {
  KVSCOPE_CHECK(decision.capture_hash == capture.capture_hash, ErrorCode::usage,
                fmt::format("decision '{}' belongs to another prompt or model", decision.method),
                capture.path, "open decisions together with the capture they were made on");
  KVSCOPE_CHECK(decision.kv_heads == capture.shape.kv_heads &&
                    decision.layers.size() == capture.layers.size() &&
                    decision.tokens <= capture.tokens,
                ErrorCode::usage,
                fmt::format("decision '{}' has {} layers and {} KV heads, the capture {} and {}",
                            decision.method, decision.layers.size(), decision.kv_heads,
                            capture.layers.size(), capture.shape.kv_heads),
                capture.path, "open decisions together with the capture they were made on");
}

}  // namespace

StateLimits Scene::limits() const {
  return {static_cast<int>(decisions.size()), layers(), kv_heads(), token_count()};
}

int Scene::layers() const {
  return static_cast<int>(capture.layers.size());
}
int Scene::kv_heads() const {
  return capture.shape.kv_heads;
}
int Scene::token_count() const {
  return tokens.size();
}
int Scene::layer_of(int row) const {
  return capture.layers[static_cast<std::size_t>(row)];
}

Scene make_scene(const CaptureIndex& capture, const TokenTable& tokens,
                 std::vector<Decision> decisions, std::optional<Spectrum> spectrum) {
  Scene scene;
  scene.capture = capture;
  scene.tokens = tokens;
  scene.spectrum = std::move(spectrum);
  for (Decision& decision : decisions) {
    add_decision(scene, std::move(decision));
  }
  return scene;
}

void add_decision(Scene& scene, Decision decision, const std::string& note) {
  check_matches(scene.capture, decision);
  SceneDecision entry;
  entry.title = fmt::format("{} {} {}", scene.decisions.size() + 1, decision.method, decision.keep);
  entry.title += note.empty() ? "" : " (" + note + ")";
  entry.fates = count_fates(decision);
  entry.whole_slots = cache_use(decision).last_whole;
  for (const LayerDecision& layer : decision.layers) {
    entry.letters.push_back(fate_letters(layer));
  }
  entry.heads_by_layer = heads_holding_by_layer(decision);
  entry.findings = check_decision(decision, &scene.tokens);
  entry.decision = std::move(decision);
  scene.decisions.push_back(std::move(entry));
}

Place costliest_loss(const Scene& scene, const State& state) {
  Place best;
  if (scene.decisions.empty()) {
    return best;
  }
  const Decision& decision = scene.decisions[static_cast<std::size_t>(state.a)].decision;
  const std::vector<float>& lost = decision.metrics.lost_error;
  float worst = 0;
  std::size_t cell = 0;
  for (std::size_t row = 0; row < decision.layers.size(); ++row) {
    for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
      for (int token = 0; token < decision.tokens; ++token, ++cell) {
        const LayerDecision& layer = decision.layers[row];
        const Segment segment = scene.tokens.segment[static_cast<std::size_t>(token)];
        if (segment == Segment::chat_template ||
            layer.removed_at[layer.cell(kv_head, token)] == alive) {
          continue;
        }
        const float cost = lost.empty() ? 1.0f : lost[cell];
        if (cost > worst) {
          worst = cost;
          best = {static_cast<int>(row), kv_head, token};
        }
      }
    }
  }
  return best;
}

State first_state(const Scene& scene) {
  State state;
  const Place place = costliest_loss(scene, state);
  if (place.row >= 0) {
    state.layer = place.row;
    state.token = place.token;
  }
  if (!scene.decisions.empty() && !scene.decisions.front().decision.metrics.empty()) {
    state.head_value = "error";
  }
  if (scene.layers() == 0 && scene.spectrum) {
    state.layout = "weights";
  }
  return clamped(state, scene.limits());
}

std::string shown_token(const std::string& bytes) {
  std::string shown;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto byte = static_cast<unsigned char>(bytes[at]);
    const std::size_t length = sequence_length(bytes, at);
    if (byte == ' ') {
      shown += "\xC2\xB7";  // middle dot
    } else if (byte == '\n') {
      shown += "\xE2\x86\xB5";  // return sign
    } else if (byte == '\t') {
      shown += "\xE2\x86\x92";  // arrow
    } else if (length == 0 || byte < 0x20 || byte == 0x7F) {
      shown += fmt::format("<{:02X}>", byte);
    } else {
      shown += bytes.substr(at, length);
    }
    at += std::max<std::size_t>(length, 1);
  }
  return shown;
}

}  // namespace kvscope
