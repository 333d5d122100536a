#include "kvscope/scene/merges.h"

#include <fmt/format.h>

#include <algorithm>

#include "fonts.h"
#include "kvscope/scene/palette.h"
#include "kvscope/scene/token_strip.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

/// A line of the bipartite list: a source beside its slot, or a token that a merge dropped.
struct Line {
  const MergeSlot* slot = nullptr;
  const MergeSource* source = nullptr;
  int dropped = -1;
  bool first = false;  ///< of its slot
};

std::vector<Line> lines_of(const MergeGraph& graph) {
  std::vector<Line> lines;
  auto dropped = graph.dropped.begin();
  const auto drop_until = [&](int token) {
    for (; dropped != graph.dropped.end() && *dropped < token; ++dropped) {
      lines.push_back({nullptr, nullptr, *dropped, false});
    }
  };
  for (const MergeSlot& slot : graph.slots) {
    drop_until(slot.target);
    for (const MergeSource& source : slot.sources) {
      lines.push_back({&slot, &source, -1, &source == &slot.sources.front()});
    }
  }
  drop_until(1 << 30);
  return lines;
}

std::string token_text(const Scene& scene, int token) {
  return drawable(shown_token(scene.tokens.text(token)));
}

/// A band from the source to its slot, as wide as the value weight.
void ribbon(const Ui& ui, const MergeSource& source) {
  const ImVec2 at = ImGui::GetCursorScreenPos();
  const float length = ui.px(80);
  const float height = ImGui::GetTextLineHeight();
  const auto weight = static_cast<float>(std::clamp(source.value_weight, 0.03, 1.0));
  const float middle = at.y + height / 2;
  const float half = height / 2 * weight;
  ImGui::GetWindowDrawList()->AddRectFilled(
      ImVec2(at.x, middle - half), ImVec2(at.x + length, middle + half),
      to_imgui(fate_colour(source.own ? 'T' : 'M', ui.dark), 0.8f), ui.px(2));
  ImGui::Dummy(ImVec2(length, height));
}

void draw_line(Ui& ui, const Line& line) {
  ImGui::TableNextRow();
  ImGui::TableNextColumn();
  const int token = line.source != nullptr ? line.source->token : line.dropped;
  ImGui::PushID(token * 2 + (line.source == nullptr ? 1 : 0));
  const std::string label = fmt::format("{} '{}'", token, token_text(ui.scene, token));
  if (ImGui::Selectable(label.c_str(), token == ui.state.token,
                        ImGuiSelectableFlags_SpanAllColumns | ImGuiSelectableFlags_AllowOverlap)) {
    ui.wanted.token = token;
  }
  ImGui::PopID();
  ImGui::TableNextColumn();
  if (line.source == nullptr) {
    ImGui::TextColored(ImGui::ColorConvertU32ToFloat4(to_imgui(fate_colour('E', ui.dark))),
                       "dropped");
    return;
  }
  const MergeSource& source = *line.source;
  ribbon(ui, source);
  const std::string cells[] = {
      fmt::format("{:.3g}", source.value_weight),
      source.key_row ? "by channel" : fmt::format("{:.3g}", source.key_weight),
      fmt::format("{:.3g}", source.count), fmt::format("{}", source.event + 1)};
  for (const std::string& text : cells) {
    ImGui::TableNextColumn();
    ImGui::TextUnformatted(text.c_str());
  }
  ImGui::TableNextColumn();
  if (line.first) {
    ImGui::TextUnformatted(fmt::format("{} '{}', {:.3g} → {:.3g}{}", line.slot->target,
                                       token_text(ui.scene, line.slot->target), line.slot->before,
                                       line.slot->after, line.slot->alive ? "" : ", gone")
                               .c_str());
  }
}

void table(Ui& ui, const MergeGraph& graph) {
  if (!ImGui::BeginTable("merges", 7,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY | ImGuiTableFlags_ScrollX |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(0, 1);
  for (const char* name : {"source", "", "value weight", "key weight", "brings", "cut",
                           "slot, multiplicity before → after"}) {
    ImGui::TableSetupColumn(name);
  }
  ImGui::TableHeadersRow();
  const std::vector<Line> lines = lines_of(graph);
  ImGuiListClipper clipper;
  clipper.Begin(static_cast<int>(lines.size()));
  while (clipper.Step()) {
    for (int row = clipper.DisplayStart; row < clipper.DisplayEnd; ++row) {
      draw_line(ui, lines[static_cast<std::size_t>(row)]);
    }
  }
  ImGui::EndTable();
}

/// Buttons for the decisions that merge, where A does not.
void offer_mergers(Ui& ui) {
  ImGui::TextDisabled("this method merges nothing here; these do somewhere:");
  for (std::size_t index = 0; index < ui.scene.decisions.size(); ++index) {
    const SceneDecision& entry = ui.scene.decisions[index];
    if (entry.fates.total.merged + entry.fates.total.dropped > 0 &&
        ImGui::Button(entry.title.c_str())) {
      ui.wanted.a = static_cast<int>(index);
    }
  }
}

}  // namespace

void draw_merges(Ui& ui) {
  if (ui.scene.decisions.empty()) {
    ImGui::TextDisabled("no decision is open");
    return;
  }
  State of = ui.state;
  of.token = of.first = of.last = 0;
  of.query.clear();
  const MergeGraph& graph =
      ui.caches.merges.get(fmt::format("{} {}", ui.scene.decisions.size(), to_link(of)),
                           [&] { return merge_graph(ui.scene, ui.state); });
  const int kv_head = selected_heads(ui.scene, ui.state).front();
  ImGui::TextUnformatted(
      fmt::format("A, layer {}, KV head {}: {} tokens merged into {} slots, {} dropped by merges",
                  ui.scene.layer_of(ui.state.layer), kv_head, graph.merged, graph.slots.size(),
                  graph.dropped.size())
          .c_str());
  ImGui::TextDisabled(
      "%s", fmt::format("Σ multiplicity {:.6g} + lost {:.6g}{} = {} tokens seen",
                        graph.multiplicity, graph.lost,
                        graph.not_counted > 0
                            ? fmt::format(" + merged but not counted {:.6g}{}", graph.not_counted,
                                          graph.counts ? "" : " (the method's rule)")
                            : "",
                        graph.seen)
                .c_str());
  if (graph.slots.empty() && graph.dropped.empty()) {
    offer_mergers(ui);
    return;
  }
  table(ui, graph);
}

}  // namespace kvscope::gui
