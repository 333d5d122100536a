#include "kvscope/scene/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "fonts.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

constexpr int around = 6;  // tokens shown on each side of a match

void field(Ui& ui) {
  char text[256];
  const std::size_t length = std::min(ui.state.query.size(), sizeof text - 1);
  std::memcpy(text, ui.state.query.data(), length);
  text[length] = '\0';
  if (ui.caches.focus_search) {
    ImGui::SetKeyboardFocusHere();
    ui.caches.focus_search = false;
  }
  ImGui::SetNextItemWidth(ui.px(240));
  if (ImGui::InputTextWithHint("##query", "text, #id, @token, /regex/, lost>=50, class:digit", text,
                               sizeof text)) {
    ui.wanted.query = text;
  }
  if (ImGui::IsItemHovered()) {
    ImGui::SetTooltip(
        "text; /regular expression/; #token id; @token index; class:sink|template|question|space|"
        "digit|punctuation|word;\nlost>=100 (heads of the model); merged, dropped, evicted, kept, "
        "only:a, only:b (in the layer shown)");
  }
}

std::string surroundings(const Scene& scene, const Match& match) {
  std::string text;
  const int last = std::min(scene.token_count(), match.last + around);
  for (int token = std::max(0, match.first - around); token < last; ++token) {
    text += token == match.first ? "[" : "";
    text += shown_token(scene.tokens.text(token));
    text += token == match.last - 1 ? "]" : "";
  }
  return drawable(text);
}

void match_row(Ui& ui, const Match& match) {
  ImGui::TableNextRow();
  ImGui::TableNextColumn();
  const bool here = ui.state.token >= match.first && ui.state.token < match.last;
  if (ImGui::Selectable(fmt::format("{}", match.first).c_str(), here,
                        ImGuiSelectableFlags_SpanAllColumns)) {
    ui.wanted.token = match.first;
  }
  ImGui::TableNextColumn();
  ImGui::TextUnformatted(surroundings(ui.scene, match).c_str());
  for (const int index : {ui.state.a, ui.state.b}) {
    ImGui::TableNextColumn();
    if (index >= static_cast<int>(ui.scene.decisions.size())) {
      continue;
    }
    const SceneDecision& entry = ui.scene.decisions[static_cast<std::size_t>(index)];
    int held = 0;
    for (int row = 0; row < ui.scene.layers() && match.first < entry.decision.tokens; ++row) {
      held += entry.heads_by_layer[static_cast<std::size_t>(row) *
                                       static_cast<std::size_t>(entry.decision.tokens) +
                                   static_cast<std::size_t>(match.first)];
    }
    ImGui::TextUnformatted(
        fmt::format("{}/{}", held, ui.scene.layers() * ui.scene.kv_heads()).c_str());
  }
}

}  // namespace

const SearchResult& found_matches(Ui& ui) {
  State of = ui.state;
  of.token = of.first = of.last = 0;
  return ui.caches.search.get(to_link(of), [&] { return search(ui.scene, ui.state); });
}

void draw_search(Ui& ui) {
  field(ui);
  const SearchResult& result = found_matches(ui);
  ImGui::SameLine();
  if (!result.problem.empty()) {
    ImGui::TextWrapped("%s", result.problem.c_str());
    return;
  }
  if (ui.state.query.empty()) {
    ImGui::TextDisabled("marks tokens in the maps");
    return;
  }
  if (ImGui::SmallButton("<")) {
    ui.command = "previous_match";
  }
  ImGui::SameLine();
  if (ImGui::SmallButton(">")) {
    ui.command = "next_match";
  }
  ImGui::SameLine();
  ImGui::TextDisabled("%s", fmt::format("{}{} found: {}", result.matches.size(),
                                        result.cut_short ? " or more" : "", result.meaning)
                                .c_str());
  if (!ImGui::BeginTable("matches", 4,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(0, 1);
  ImGui::TableSetupColumn("token");
  ImGui::TableSetupColumn("text", ImGuiTableColumnFlags_WidthStretch);
  ImGui::TableSetupColumn("A keeps in");
  ImGui::TableSetupColumn("B keeps in");
  ImGui::TableHeadersRow();
  ImGuiListClipper clipper;
  clipper.Begin(static_cast<int>(result.matches.size()));
  while (clipper.Step()) {
    for (int row = clipper.DisplayStart; row < clipper.DisplayEnd; ++row) {
      match_row(ui, result.matches[static_cast<std::size_t>(row)]);
    }
  }
  ImGui::EndTable();
}

void draw_bookmarks(Ui& ui) {
  if (ImGui::SmallButton("Bookmark this view")) {
    ui.command = "bookmark";
  }
  ImGui::SameLine();
  ImGui::TextDisabled("kept beside the capture");
  for (std::size_t index = 0; index < ui.bookmarks.size(); ++index) {
    Bookmark& bookmark = ui.bookmarks[index];
    ImGui::PushID(static_cast<int>(index));
    if (ImGui::Selectable(drawable(bookmark.title).c_str(), bookmark.state == ui.state)) {
      ui.wanted = bookmark.state;
    }
    ImGui::PopID();
  }
}

}  // namespace kvscope::gui
