#include "kvscope/scene/inspector.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kvscope/scene/moment.h"
#include "kvscope/scene/token_class.h"
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

std::string key_weight_text(const MergeEdge& edge) {
  return fmt::format("{:.3g}{}", edge.key_weight,
                     edge.key_row >= 0 ? " on average over channels" : "");
}

/// Tokens that a slot counts for after the events before `events`.
double multiplicity_of(const LayerDecision& layer, int kv_head, int slot, int events) {
  double count = 1;
  for (const MergeEdge& edge : layer.edges) {
    const bool here = edge.kv_head == kv_head && edge.target == slot && edge.source != slot;
    count += here && edge.event < events ? static_cast<double>(edge.count) : 0;
  }
  return count;
}

/// Merges of a token by the first `cuts` events: where it went, or what it took in.
void fill_merges(const LayerDecision& layer, int token, int cuts, WhyRow& row) {
  std::vector<const MergeEdge*> into;
  std::vector<const MergeEdge*> from;
  for (const MergeEdge& edge : layer.edges) {
    if (edge.kv_head == row.kv_head && edge.event < cuts && edge.source != edge.target) {
      if (edge.source == token) {
        into.push_back(&edge);
      } else if (edge.target == token) {
        from.push_back(&edge);
      }
    }
  }
  const bool merged = !into.empty();
  const std::vector<const MergeEdge*>& edges = merged ? into : from;
  int more = 0;
  for (const MergeEdge* edge : edges) {
    if (row.merged_into.size() > 160) {
      ++more;
      continue;
    }
    row.merged_into += row.merged_into.empty() ? "" : ", ";
    row.merged_into += fmt::format("{} {} (key weight {}, value weight {:.3g})",
                                   merged ? "into" : "from", merged ? edge->target : edge->source,
                                   key_weight_text(*edge), edge->value_weight);
  }
  row.merged_into += more > 0 ? fmt::format(", and {} more", more) : "";
  if (into.size() == 1) {
    const MergeEdge& edge = *into.front();
    row.multiplicity_before = multiplicity_of(layer, row.kv_head, edge.target, edge.event);
    row.multiplicity_after = multiplicity_of(layer, row.kv_head, edge.target, edge.event + 1);
  } else if (!merged && !from.empty()) {
    row.multiplicity_before = 1;
    row.multiplicity_after = multiplicity_of(layer, row.kv_head, token, cuts);
  }
}

std::string multiplicity_text(const WhyRow& row) {
  if (std::isnan(row.multiplicity_after)) {
    return "";
  }
  const std::string who = row.merged_into.starts_with("into") ? "that slot" : "its slot";
  if (row.multiplicity_after == row.multiplicity_before) {
    return fmt::format("; {} counts as {:.3g} token{} before and after", who,
                       row.multiplicity_after, row.multiplicity_after == 1 ? "" : "s");
  }
  return fmt::format("; {} counted as {:.3g} token{} before and {:.3g} after", who,
                     row.multiplicity_before, row.multiplicity_before == 1 ? "" : "s",
                     row.multiplicity_after);
}

/// Names and units of the method's score terms, and how they make the score: from its descriptor.
void fill_terms(const Decision& decision, const LayerDecision& layer, std::size_t cell,
                WhyRow& row) {
  if (layer.terms.empty()) {
    return;
  }
  const nlohmann::json descriptor = nlohmann::json::parse(decision.descriptor_json, nullptr, false);
  const auto text_of = [](const nlohmann::json& object, const char* key) {
    return object.is_object() && object.contains(key) && object[key].is_string()
               ? object[key].get<std::string>()
               : std::string();
  };
  row.combine = text_of(descriptor, "combine");
  const std::size_t cells = layer.fate.size();
  const std::size_t head = cell - cell % static_cast<std::size_t>(layer.tokens);
  for (std::size_t term = 0; term < decision.term_names.size(); ++term) {
    WhyRow::Term entry{decision.term_names[term], "", 0, nan_value};
    if (descriptor.is_object() && descriptor.contains("terms") &&
        term < descriptor["terms"].size()) {
      entry.unit = text_of(descriptor["terms"][term], "unit");
    }
    const float* values = layer.terms.data() + term * cells;
    entry.value = static_cast<double>(values[cell]);
    int present = 0;
    int below = 0;
    for (int token = 0; token < layer.tokens; ++token) {
      const float other = values[head + static_cast<std::size_t>(token)];
      present += std::isnan(other) ? 0 : 1;
      below += other < values[cell] ? 1 : 0;
    }
    entry.percentile = present > 0 ? static_cast<double>(below) / present : nan_value;
    row.terms.push_back(entry);
  }
}

/// KV heads over all layers in which decision A holds the token at the state's moment.
int heads_that_hold(const Scene& scene, const State& state, const Decision& decision) {
  if (state.token >= tokens_seen(decision, state)) {
    return 0;
  }
  const auto applied = static_cast<std::uint32_t>(cuts_applied(decision, state));
  int held = 0;
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < scene.kv_heads(); ++kv_head) {
      held += layer.removed_at[layer.cell(kv_head, state.token)] >= applied ? 1 : 0;
    }
  }
  return held;
}

std::string capitalised(std::string text) {
  text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}

}  // namespace

WhyRow why_row(const Decision& decision, int layer_row, int kv_head, int token, char letter,
               int cuts) {
  const LayerDecision& layer = decision.layers[static_cast<std::size_t>(layer_row)];
  WhyRow row;
  row.kv_head = kv_head;
  row.letter = token < layer.tokens ? letter : 'N';
  row.lost_error = row.cut = row.first_lost = row.margin = nan_value;
  row.multiplicity_before = row.multiplicity_after = nan_value;
  if (row.letter == 'N') {
    row.reason = "later than the moment shown";
    return row;
  }
  const std::size_t cell = layer.cell(kv_head, token);
  row.reason = reason_name(layer.reason[cell]);
  fill_score(layer, kv_head, token, row);
  const std::vector<float>& lost = decision.metrics.lost_error;
  if (!lost.empty()) {
    row.lost_error =
        static_cast<double>(lost[static_cast<std::size_t>(layer_row) * layer.fate.size() + cell]);
  }
  if (layer.removed_at[cell] < decision.events.size()) {
    row.removed_seen = decision.events[layer.removed_at[cell]].tokens_seen;
  }
  fill_terms(decision, layer, cell, row);
  fill_merges(layer, token, cuts < 0 ? static_cast<int>(decision.events.size()) : cuts, row);
  return row;
}

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
  inspection.kind = token_class_name(token_class(scene.tokens, state.token));
  inspection.layer = scene.layer_of(state.layer);
  inspection.heads = scene.layers() * scene.kv_heads();
  for (std::size_t index = 0; index < scene.decisions.size(); ++index) {
    const SceneDecision& entry = scene.decisions[index];
    if (static_cast<int>(index) == state.a) {
      inspection.kept_heads = heads_that_hold(scene, state, entry.decision);
    }
    const std::string letters = letters_at(entry, state.layer, state);
    for (const int kv_head : selected_heads(scene, state)) {
      const LayerDecision& layer = entry.decision.layers[static_cast<std::size_t>(state.layer)];
      WhyRow row =
          why_row(entry.decision, state.layer, kv_head, state.token,
                  state.token < layer.tokens ? letters[layer.cell(kv_head, state.token)] : 'N',
                  static_cast<int>(cuts_applied(entry.decision, state)));
      row.decision = static_cast<int>(index);
      row.title = entry.title;
      inspection.rows.push_back(std::move(row));
    }
  }
  return inspection;
}

std::string why_text(const WhyRow& row) {
  std::string text = fmt::format("{}: {}", capitalised(fate_name(row.letter)), row.reason);
  if (row.letter == 'N') {
    return text + ".";
  }
  if (row.removed_seen >= 0 && std::string_view("MED").find(row.letter) != std::string_view::npos) {
    text += fmt::format(", at the cut after {} tokens", row.removed_seen);
  }
  if (row.has_score) {
    text += fmt::format(". Score {:.4g}, rank {} of {}; the head was granted {} slots", row.score,
                        row.rank, row.candidates, row.granted);
  } else {
    text += ". No score decided, or none was stored (decide --scores)";
  }
  if (std::isfinite(row.margin) && row.has_score) {
    text += fmt::format(". That is {:.2g} % {} the last kept score, {:.4g}",
                        100 * std::abs(row.margin), row.margin < 0 ? "below" : "above", row.cut);
  }
  if (!row.terms.empty()) {
    text += ". Its terms";
    text += row.combine.empty() ? "" : fmt::format(" ({})", row.combine);
    text += ":";
    for (const WhyRow::Term& term : row.terms) {
      text += fmt::format(" {} = {:.4g}{}{},", term.name, term.value, term.unit.empty() ? "" : " ",
                          term.unit);
      text += std::isfinite(term.percentile)
                  ? fmt::format(" above {:.0f} % of the head's tokens;", 100 * term.percentile)
                  : "";
    }
    text.pop_back();
  }
  if (!row.merged_into.empty()) {
    text += ". Merged " + row.merged_into + multiplicity_text(row);
  }
  if (std::isfinite(row.lost_error)) {
    text += fmt::format(". Losing this token alone changes the head's output by {:.3g} %",
                        100 * row.lost_error);
  }
  return text + ".";
}

}  // namespace kvscope
