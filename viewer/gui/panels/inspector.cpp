#include "kvscope/scene/inspector.h"

#include <fmt/format.h>

#include <cmath>

#include "fonts.h"
#include "kvscope/scene/palette.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

void cell(const std::string& text) {
  ImGui::TableNextColumn();
  ImGui::TextUnformatted(text.c_str());
}

std::string number(double value) {
  return std::isnan(value) ? "–" : fmt::format("{:.3g}", value);
}

/// How a score stands to the cut: in percent of it, or as a factor where that reads better.
std::string margin_text(double margin) {
  return std::isnan(margin)         ? "–"
         : std::abs(margin) >= 9.95 ? fmt::format("{:+.0f}×", margin)
                                    : fmt::format("{:+.0f} %", 100 * margin);
}

void fate_badge(const Ui& ui, char letter, const std::string& reason) {
  const Colour colour = fate_colour(letter, ui.dark);
  const ImVec2 at = ImGui::GetCursorScreenPos();
  const float size = ImGui::GetTextLineHeight();
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const std::string text(1, letter);
  const float width = ImGui::CalcTextSize(text.c_str()).x;
  draw->AddRectFilled(at, ImVec2(at.x + size, at.y + size), to_imgui(colour), ui.px(3));
  draw->AddText(ImVec2(at.x + (size - width) / 2, at.y), to_imgui(ink_on(colour)), text.c_str());
  ImGui::Dummy(ImVec2(size, size));
  ImGui::SameLine(0, ui.px(5));
  ImGui::TextUnformatted(reason.c_str());
}

const Inspection& cached(Ui& ui) {
  State of = ui.state;
  of.first = of.last = 0;
  of.query.clear();
  return ui.caches.inspection.get(fmt::format("{} {}", ui.scene.decisions.size(), to_link(of)),
                                  [&] { return inspect_token(ui.scene, ui.state); });
}

void table_row(Ui& ui, const WhyRow& row) {
  ImGui::TableNextRow();
  ImGui::TableNextColumn();
  ImGui::PushID(row.decision * 1024 + row.kv_head);
  const bool is_a = row.decision == ui.state.a;
  if (ImGui::Selectable(row.title.c_str(), is_a, ImGuiSelectableFlags_SpanAllColumns)) {
    ui.wanted.a = row.decision;
  }
  if (ImGui::IsItemHovered()) {
    ImGui::BeginTooltip();
    ImGui::PushTextWrapPos(ui.px(520));
    ImGui::TextUnformatted(
        fmt::format("{}, KV head {}\n{}", row.title, row.kv_head, why_text(row)).c_str());
    ImGui::PopTextWrapPos();
    ImGui::EndTooltip();
  }
  ImGui::PopID();
  cell(fmt::format("{}", row.kv_head));
  ImGui::TableNextColumn();
  fate_badge(ui, row.letter, row.reason == "observation window" ? "window" : row.reason);
  cell(row.has_score ? fmt::format("{}/{}", row.rank, row.candidates) : "–");
  cell(row.granted > 0 ? fmt::format("{}", row.granted) : "–");
  cell(row.has_score ? margin_text(row.margin) : "–");
  cell(number(row.lost_error));
}

}  // namespace

void draw_inspector(Ui& ui) {
  if (ui.scene.token_count() == 0) {
    ImGui::TextDisabled("no capture is open");
    return;
  }
  const Inspection& inspection = cached(ui);
  ImGui::TextUnformatted(fmt::format("'{}'   token {}   id {}   position {}   {}, {}",
                                     drawable(inspection.text), inspection.token, inspection.id,
                                     inspection.position, inspection.segment, inspection.kind)
                             .c_str());
  if (inspection.rows.empty()) {
    ImGui::TextDisabled("no decision is open");
    return;
  }
  ImGui::TextDisabled("layer %d; A keeps it in %d of %d heads of the model", inspection.layer,
                      inspection.kept_heads, inspection.heads);
  for (const WhyRow& row : inspection.rows) {  // the first head of A, in words
    if (row.decision == ui.state.a) {
      ImGui::TextWrapped("A, KV %d: %s", row.kv_head, why_text(row).c_str());
      break;
    }
  }
  if (!ImGui::BeginTable("why", 7,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY | ImGuiTableFlags_ScrollX |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(1, 1);
  for (const char* name :
       {"method", "KV", "fate by", "rank", "slots", "to the cut", "cost if lost"}) {
    ImGui::TableSetupColumn(name);
  }
  ImGui::TableHeadersRow();
  for (const WhyRow& row : inspection.rows) {
    table_row(ui, row);
  }
  ImGui::EndTable();
}

}  // namespace kvscope::gui
