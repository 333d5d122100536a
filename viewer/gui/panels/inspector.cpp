#include "kvscope/scene/inspector.h"

#include <fmt/format.h>

#include <cmath>

#include "kvscope/scene/palette.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

void cell(const std::string& text) {
  ImGui::TableNextColumn();
  ImGui::TextUnformatted(text.c_str());
}

std::string number(double value) {
  return std::isnan(value) ? "-" : fmt::format("{:.3g}", value);
}

/// Reasons fit a narrow column; the tooltip has them whole.
std::string short_reason(const std::string& reason) {
  return reason == "observation window" ? "window" : reason;
}

void details(const WhyRow& row) {
  std::string text = fmt::format("{}, KV head {}: {}, by {}", row.title, row.kv_head,
                                 fate_name(row.letter), row.reason);
  if (row.has_score) {
    text += fmt::format("\nscore {:.6g}, rank {} of {}; the head was granted {} slots", row.score,
                        row.rank, row.candidates, row.granted);
    text += fmt::format("\ncut: the last kept scored {}, the first lost {}", number(row.cut),
                        number(row.first_lost));
  } else {
    text += "\nno score decided, or none was stored (decide --scores)";
  }
  for (const WhyRow::Term& term : row.terms) {
    text += fmt::format("\n  {} = {:.6g}", term.name, term.value);
  }
  if (!row.merged_into.empty()) {
    text += "\nmerged " + row.merged_into;
  }
  ImGui::SetTooltip("%s", text.c_str());
}

void fate_badge(const Ui& ui, char letter) {
  const Colour colour = fate_colour(letter, ui.dark);
  const ImVec2 at = ImGui::GetCursorScreenPos();
  const float size = ImGui::GetTextLineHeight();
  ImGui::GetWindowDrawList()->AddRectFilled(at, ImVec2(at.x + size, at.y + size), to_imgui(colour),
                                            3);
  ImGui::GetWindowDrawList()->AddText(ImVec2(at.x + size * 0.25f, at.y), to_imgui(ink_on(colour)),
                                      std::string(1, letter).c_str());
  ImGui::Dummy(ImVec2(size, size));
  ImGui::SameLine();
  ImGui::TextUnformatted(fate_name(letter));
}

}  // namespace

void draw_inspector(Ui& ui) {
  const Inspection inspection = inspect_token(ui.scene, ui.state);
  if (ui.scene.token_count() == 0) {
    ImGui::TextDisabled("no capture is open");
    return;
  }
  ImGui::TextUnformatted(fmt::format("'{}'   token {}   id {}   position {}   {}", inspection.text,
                                     inspection.token, inspection.id, inspection.position,
                                     inspection.segment)
                             .c_str());
  ImGui::TextDisabled("layer %d; A keeps it in %d of %d heads of the model", inspection.layer,
                      inspection.kept_heads, inspection.heads);
  if (!ImGui::BeginTable("why", 6,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(0, 1);
  ImGui::TableSetupColumn("method", ImGuiTableColumnFlags_WidthStretch);
  for (const char* name : {"head", "fate", "rank", "margin", "cost if lost"}) {
    ImGui::TableSetupColumn(name);
  }
  ImGui::TableHeadersRow();
  for (const WhyRow& row : inspection.rows) {
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    ImGui::PushID(row.decision * 1024 + row.kv_head);
    if (ImGui::Selectable(row.title.c_str(), row.decision == ui.state.a,
                          ImGuiSelectableFlags_SpanAllColumns)) {
      ui.wanted.a = row.decision;
    }
    if (ImGui::IsItemHovered()) {
      details(row);
    }
    ImGui::PopID();
    cell(fmt::format("{}", row.kv_head));
    ImGui::TableNextColumn();
    fate_badge(ui, row.letter);
    cell(row.has_score ? fmt::format("{}/{}", row.rank, row.candidates) : short_reason(row.reason));
    cell(std::isnan(row.margin) || !row.has_score ? "-"
                                                  : fmt::format("{:+.1f} %", 100 * row.margin));
    cell(number(row.lost_error));
  }
  ImGui::EndTable();
}

}  // namespace kvscope::gui
