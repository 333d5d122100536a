#include <fmt/format.h>

#include <algorithm>

#include "kvscope/scene/palette.h"
#include "kvscope/scene/token_strip.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

/// Tokens that about fill a line: the strip starts a third of its lines before the selected token,
/// and never so late that it ends half empty.
constexpr float tokens_per_pixel = 1.0f / 42;

void legend(Ui& ui) {
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const float size = ImGui::GetFontSize() * 0.8f;
  for (const char letter : std::string_view("KPTMED")) {
    const ImVec2 at = ImGui::GetCursorScreenPos();
    draw->AddRectFilled(ImVec2(at.x, at.y + 3), ImVec2(at.x + size, at.y + 3 + size),
                        to_imgui(fate_colour(letter, ui.dark)), 2);
    ImGui::Dummy(ImVec2(size, size));
    ImGui::SameLine(0, 4);
    ImGui::TextDisabled("%c %s", letter, fate_name(letter));
    ImGui::SameLine(0, 12);
  }
  ImGui::TextDisabled("bar: share of the chosen heads that keep it");
}

void tooltip(const Ui& ui, const StripToken& cell) {
  const auto token = static_cast<std::size_t>(cell.token);
  ImGui::SetTooltip(
      "token %d   '%s'   id %d   position %d\n%s in layer %d: kept by %.0f %% of the chosen heads",
      cell.token, cell.text.c_str(), ui.scene.tokens.id[token], ui.scene.tokens.position[token],
      fate_name(static_cast<char>(std::toupper(static_cast<unsigned char>(cell.letter)))),
      ui.scene.layer_of(ui.state.layer), 100 * cell.share);
}

}  // namespace

void draw_strip(Ui& ui) {
  if (ui.scene.token_count() == 0) {
    ImGui::TextDisabled("no capture is open");
    return;
  }
  legend(ui);
  ImGui::BeginChild("strip");
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const ImVec2 origin = ImGui::GetCursorScreenPos();
  const float width = ImGui::GetContentRegionAvail().x;
  const float height = ImGui::GetContentRegionAvail().y;
  const float line = ImGui::GetFontSize() + 9;
  const int room = static_cast<int>(width * tokens_per_pixel * height / line);
  const int first =
      std::clamp(ui.state.token - room / 3, 0, std::max(0, ui.scene.token_count() - room));
  ImVec2 at = origin;
  for (const StripToken& cell : token_strip(ui.scene, ui.state, first, first + 2400)) {
    const float text_width = std::max(ImGui::CalcTextSize(cell.text.c_str()).x, 4.0f);
    if (at.x + text_width > origin.x + width && at.x > origin.x) {
      at = ImVec2(origin.x, at.y + line);
    }
    if (at.y + line > origin.y + height) {
      break;
    }
    const ImVec2 end(at.x + text_width + 1, at.y + line - 5);
    const char fate = static_cast<char>(std::toupper(static_cast<unsigned char>(cell.letter)));
    const bool mixed = cell.letter != fate;
    const Colour fill =
        mixed ? share_colour(cell.share, ui.dark) : fate_colour(cell.letter, ui.dark);
    draw->AddRectFilled(at, end, to_imgui(fill, mixed ? 0.55f : 1.0f), 2);
    draw->AddText(ImVec2(at.x, at.y + 1),
                  mixed ? ImGui::GetColorU32(ImGuiCol_Text) : to_imgui(ink_on(fill)),
                  cell.text.c_str());
    draw->AddRectFilled(
        ImVec2(at.x, end.y),
        ImVec2(at.x + (end.x - at.x - 1) * static_cast<float>(cell.share), end.y + 3),
        to_imgui(fate_colour('K', ui.dark)));
    if (cell.token == ui.state.token) {
      draw->AddRect(ImVec2(at.x - 2, at.y - 1), ImVec2(end.x + 1, end.y + 4),
                    ImGui::GetColorU32(ImGuiCol_Text), 2.0f, 2.0f);
    }
    if (ImGui::IsMouseHoveringRect(at, ImVec2(end.x, end.y + 3)) && ImGui::IsWindowHovered()) {
      tooltip(ui, cell);
      if (ImGui::IsMouseClicked(ImGuiMouseButton_Left)) {
        ui.wanted.token = cell.token;
      }
    }
    at.x = end.x + 1;
    if (cell.breaks) {
      at = ImVec2(origin.x, at.y + line);
    }
  }
  ImGui::EndChild();
}

}  // namespace kvscope::gui
