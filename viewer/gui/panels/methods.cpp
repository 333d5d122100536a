#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "kvscope/scene/moment.h"
#include "kvscope/scene/texts.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

std::string mean(const std::vector<float>& values) {
  return values.empty() ? std::string("–")
                        : fmt::format("{:.3f}", std::accumulate(values.begin(), values.end(), 0.0) /
                                                    static_cast<double>(values.size()));
}

std::string answer_of(const Scene& scene, const Decision& decision) {
  const Answer* answer =
      scene.answers ? scene.answers->of(decision.method, decision.keep) : nullptr;
  return answer == nullptr ? "–" : answer->text == scene.answers->full ? "same" : "differs";
}

/// KV heads of the model that hold every token of a match.
std::string held_whole(const Scene& scene, const Decision& decision, const Match& match) {
  int whole = 0;
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads && match.last <= layer.tokens; ++kv_head) {
      const auto first =
          layer.removed_at.begin() + static_cast<std::ptrdiff_t>(layer.cell(kv_head, match.first));
      whole += std::all_of(first, first + (match.last - match.first),
                           [](std::uint32_t event) { return event == alive; })
                   ? 1
                   : 0;
    }
  }
  return fmt::format("{}/{}", whole, scene.layers() * scene.kv_heads());
}

std::vector<std::string> cells_of(const Ui& ui, const SceneDecision& entry, const Match* match) {
  const FateCounts& fates = entry.fates.total;
  const auto share = [&](std::int64_t cells) {
    return fmt::format("{:.1f} %",
                       100.0 * static_cast<double>(cells) /
                           static_cast<double>(std::max<std::int64_t>(fates.total(), 1)));
  };
  const std::string bytes =
      slots_as_bytes(ui.scene, entry.decision.form, fates.holding(), entry.whole_slots);
  return {!entry.decision.replayed      ? "live"
          : entry.decision.replay_exact ? "replay"
                                        : "replay ~",
          share(fates.holding()),
          share(fates.merged),
          share(fates.evicted),
          share(fates.dropped),
          bytes.empty() ? "–" : bytes,
          mean(entry.decision.metrics.output_error),
          mean(entry.decision.metrics.retained_mass),
          answer_of(ui.scene, entry.decision),
          match == nullptr ? "–" : held_whole(ui.scene, entry.decision, *match)};
}

void judged_by(const Ui& ui) {
  const DecisionMetrics& metrics =
      ui.scene.decisions[static_cast<std::size_t>(ui.state.a)].decision.metrics;
  ImGui::SetTooltip("output error and attention kept are judged by: %s%s",
                    metrics.empty() ? "nothing" : metrics.queries.c_str(),
                    metrics.seen_by_method ? " (the method saw these queries)" : "");
}

}  // namespace

void draw_methods(Ui& ui) {
  if (ui.scene.decisions.empty()) {
    ImGui::TextDisabled("no decision is open");
    return;
  }
  const std::vector<Match>& found = found_matches(ui).matches;
  const Match* match = found.empty() ? nullptr : &found.front();
  const std::string held_in =
      match == nullptr ? "held in" : fmt::format("'{}' held in", ui.state.query);
  if (!ImGui::BeginTable("methods", 11,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY | ImGuiTableFlags_ScrollX |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(1, 1);
  for (const char* name : {"method", "run", "held", "merged", "evicted", "dropped", "cache",
                           "output error", "attention kept", "answer", held_in.c_str()}) {
    ImGui::TableSetupColumn(name);
  }
  ImGui::TableHeadersRow();
  for (std::size_t index = 0; index < ui.scene.decisions.size(); ++index) {
    const SceneDecision& entry = ui.scene.decisions[index];
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    if (ImGui::Selectable(entry.title.c_str(), static_cast<int>(index) == ui.state.a,
                          ImGuiSelectableFlags_SpanAllColumns)) {
      ui.wanted.a = static_cast<int>(index);
    }
    if (ImGui::IsItemHovered()) {
      judged_by(ui);
    }
    for (const std::string& text : cells_of(ui, entry, match)) {
      ImGui::TableNextColumn();
      ImGui::TextUnformatted(text.c_str());
    }
  }
  ImGui::EndTable();
}

void draw_run(Ui& ui) {
  const CaptureIndex& run = ui.scene.capture;
  if (ui.scene.layers() == 0) {
    ImGui::TextDisabled("no capture is open");
    return;
  }
  const ModelShape& shape = run.shape;
  const std::pair<const char*, std::string> rows[] = {
      {"file", run.path},
      {"model", fmt::format("{}, {}, hash {}", run.model_name, run.architecture, run.model_hash)},
      {"shape", fmt::format("{} layers ({} captured), {} query heads, {} KV heads of {}, hidden {}",
                            shape.layers, run.layers.size(), shape.query_heads, shape.kv_heads,
                            shape.head_dim, shape.hidden_dim)},
      {"tokens", fmt::format("{} in the prompt ({} context), {} decode steps", run.prompt_tokens,
                             run.context_tokens, run.steps)},
      {"types", fmt::format("weights {}, computed in {}, cache {}, on {}", run.weights_dtype,
                            run.compute_dtype, run.cache_dtype, run.device)},
      {"profile",
       fmt::format("{}, queries stored from {} on", profile_name(run.profile), run.first_query)},
      {"attention", run.attention_kernel},
      {"written by", fmt::format("{}, {}", run.created_by, run.created_utc)},
      {"run", fmt::format("method {} {}, hash {}", run.method, run.budget, run.capture_hash)}};
  if (ImGui::BeginTable("run", 2, ImGuiTableFlags_RowBg | ImGuiTableFlags_SizingFixedFit)) {
    for (const auto& [name, value] : rows) {
      ImGui::TableNextRow();
      ImGui::TableNextColumn();
      ImGui::TextDisabled("%s", name);
      ImGui::TableNextColumn();
      ImGui::TextUnformatted(value.c_str());
    }
    ImGui::EndTable();
  }
}

}  // namespace kvscope::gui
