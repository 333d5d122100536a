#include "kvscope/scene/inspector.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "kvscope/scene/token_strip.h"

namespace kvscope {
namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

const char* segment_name(Segment segment) {
  switch (segment) {
    case Segment::chat_template:
      return "template";
    case Segment::context:
      return "context";
    case Segment::question:
      return "question";
    case Segment::generated:
      return "generated";
  }
  return "";
}

void fill_score(const LayerDecision& layer, int kv_head, int token, WhyRow& row) {
  const Cut& cut = layer.cut[static_cast<std::size_t>(kv_head)];
  row.granted = layer.granted[static_cast<std::size_t>(kv_head)];
  row.cut = static_cast<double>(cut.last_kept);
  row.first_lost = static_cast<double>(cut.first_lost);
  row.margin = nan_value;
  if (layer.scores.empty()) {
    return;
  }
  const float score = layer.scores[layer.cell(kv_head, token)];
  for (int other = 0; other < layer.tokens; ++other) {
    const float value = layer.scores[layer.cell(kv_head, other)];
    if (std::isnan(value)) {
      continue;
    }
    ++row.candidates;
    row.rank += value > score || (value == score && other < token) ? 1 : 0;
  }
  if (std::isnan(score)) {
    row.rank = 0;
    return;
  }
  row.has_score = true;
  row.score = static_cast<double>(score);
  ++row.rank;
  if (std::isfinite(row.cut) && row.cut != 0) {
    row.margin = (row.score - row.cut) / std::abs(row.cut);
  }
}

std::string edges_of(const LayerDecision& layer, int kv_head, int token) {
  std::string text;
  int more = 0;
  for (const MergeEdge& edge : layer.edges) {
    if (edge.kv_head != kv_head || edge.source == edge.target ||
        (edge.source != token && edge.target != token)) {
      continue;
    }
    if (text.size() > 60) {
      ++more;
      continue;
    }
    text += text.empty() ? "" : ", ";
    text += edge.source == token ? fmt::format("into {} ({:.3g})", edge.target, edge.value_weight)
                                 : fmt::format("from {} ({:.3g})", edge.source, edge.value_weight);
  }
  return more > 0 ? text + fmt::format(", and {} more", more) : text;
}

WhyRow why(const SceneDecision& entry, int index, int row_index, int kv_head, int token) {
  const LayerDecision& layer = entry.decision.layers[static_cast<std::size_t>(row_index)];
  WhyRow row;
  row.decision = index;
  row.kv_head = kv_head;
  row.title = entry.title;
  row.lost_error = nan_value;
  if (token >= layer.tokens) {
    row.letter = 'N';
    row.reason = "later than the cut";
    row.cut = row.first_lost = row.margin = nan_value;
    return row;
  }
  const std::size_t cell = layer.cell(kv_head, token);
  row.letter = entry.letters[static_cast<std::size_t>(row_index)][cell];
  row.reason = reason_name(layer.reason[cell]);
  fill_score(layer, kv_head, token, row);
  const DecisionMetrics& metrics = entry.decision.metrics;
  if (!metrics.lost_error.empty()) {
    const std::size_t cells =
        static_cast<std::size_t>(layer.kv_heads) * static_cast<std::size_t>(layer.tokens);
    row.lost_error =
        static_cast<double>(metrics.lost_error[static_cast<std::size_t>(row_index) * cells + cell]);
  }
  for (std::size_t term = 0; term < entry.decision.term_names.size() && !layer.terms.empty();
       ++term) {
    const std::size_t cells = layer.fate.size();
    row.terms.push_back(
        {entry.decision.term_names[term], static_cast<double>(layer.terms[term * cells + cell])});
  }
  row.merged_into = edges_of(layer, kv_head, token);
  return row;
}

}  // namespace

Inspection inspect_token(const Scene& scene, const State& state) {
  Inspection inspection;
  if (scene.token_count() == 0) {
    return inspection;
  }
  const auto token = static_cast<std::size_t>(state.token);
  inspection.token = state.token;
  inspection.text = shown_token(scene.tokens.text(state.token));
  inspection.id = scene.tokens.id[token];
  inspection.position = scene.tokens.position[token];
  inspection.segment = segment_name(scene.tokens.segment[token]);
  inspection.layer = scene.layer_of(state.layer);
  inspection.heads = scene.layers() * scene.kv_heads();
  for (std::size_t index = 0; index < scene.decisions.size(); ++index) {
    const SceneDecision& entry = scene.decisions[index];
    if (static_cast<int>(index) == state.a) {
      for (int row = 0; row < scene.layers(); ++row) {
        inspection.kept_heads +=
            state.token < entry.decision.tokens
                ? entry.heads_by_layer[static_cast<std::size_t>(row) *
                                           static_cast<std::size_t>(entry.decision.tokens) +
                                       token]
                : scene.kv_heads();
      }
    }
    for (const int kv_head : selected_heads(scene, state)) {
      inspection.rows.push_back(
          why(entry, static_cast<int>(index), state.layer, kv_head, state.token));
    }
  }
  return inspection;
}

}  // namespace kvscope
