#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kvscope/scene/head_map.h"
#include "kvscope/scene/palette.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

struct Choice {
  const char* value;
  const char* title;
};

constexpr Choice choices[] = {{"kept", "slots held"},
                              {"error", "output error"},
                              {"mass", "retained attention"},
                              {"jaccard", "agreement A, B"}};

void choose_value(Ui& ui) {
  const auto current =
      std::find_if(std::begin(choices), std::end(choices),
                   [&](const Choice& choice) { return ui.state.head_value == choice.value; });
  ImGui::SetNextItemWidth(170);
  if (ImGui::BeginCombo("##value", current->title)) {
    for (const Choice& choice : choices) {
      if (ImGui::Selectable(choice.title, ui.state.head_value == choice.value)) {
        ui.wanted.head_value = choice.value;
      }
    }
    ImGui::EndCombo();
  }
  ImGui::SameLine();
}

std::string number_text(double value) {
  return std::isnan(value)       ? "-"
         : std::abs(value) >= 10 ? fmt::format("{:.0f}", value)
                                 : fmt::format("{:.2f}", value);
}

}  // namespace

void draw_heads(Ui& ui) {
  choose_value(ui);
  const HeadMap map = head_map(ui.scene, ui.state);
  if (!map.missing.empty()) {
    ImGui::TextDisabled("%s", map.missing.c_str());
    return;
  }
  ImGui::TextDisabled("%s to %s", number_text(map.least).c_str(), number_text(map.most).c_str());
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const ImVec2 space = ImGui::GetContentRegionAvail();
  const float label = 34;
  const ImVec2 origin = ImGui::GetCursorScreenPos();
  const float cell_height = std::max(4.0f, (space.y - 22) / static_cast<float>(map.layers));
  const float cell_width = std::max(6.0f, (space.x - label) / static_cast<float>(map.kv_heads));
  const bool numbers = cell_height >= ImGui::GetFontSize() && cell_width >= 44;
  const double span = map.most > map.least ? map.most - map.least : 1;
  for (int kv_head = 0; kv_head < map.kv_heads; ++kv_head) {
    draw->AddText(
        ImVec2(origin.x + label + cell_width * (static_cast<float>(kv_head) + 0.4f), origin.y),
        ImGui::GetColorU32(ImGuiCol_TextDisabled), fmt::format("h{}", kv_head).c_str());
  }
  for (int row = 0; row < map.layers; ++row) {
    const float y = origin.y + 18 + cell_height * static_cast<float>(row);
    if (cell_height >= 13 || row % static_cast<int>(std::ceil(14 / cell_height)) == 0) {
      draw->AddText(ImVec2(origin.x, y - 2), ImGui::GetColorU32(ImGuiCol_TextDisabled),
                    fmt::format("L{}", ui.scene.layer_of(row)).c_str());
    }
    for (int kv_head = 0; kv_head < map.kv_heads; ++kv_head) {
      const double value = map.at(row, kv_head);
      const double part = map.most > map.least ? (value - map.least) / span : 0.5;
      const Colour colour = map.cost ? cost_colour(part, ui.dark) : share_colour(part, ui.dark);
      const ImVec2 at(origin.x + label + cell_width * static_cast<float>(kv_head), y);
      const ImVec2 end(at.x + cell_width - 1, at.y + cell_height - 1);
      draw->AddRectFilled(at, end, to_imgui(colour));
      if (numbers) {
        draw->AddText(ImVec2(at.x + 4, at.y + (cell_height - ImGui::GetFontSize()) / 2),
                      to_imgui(ink_on(colour)), number_text(value).c_str());
      }
      const bool chosen = row == ui.state.layer && (ui.state.kv_heads.empty() ||
                                                    ui.state.kv_heads == std::vector<int>{kv_head});
      if (chosen) {
        draw->AddRect(at, end, ImGui::GetColorU32(ImGuiCol_Text), 0.0f, 2.0f);
      }
      if (ImGui::IsMouseHoveringRect(at, end) && ImGui::IsWindowHovered()) {
        ImGui::SetTooltip("layer %d, KV head %d: %s %s", ui.scene.layer_of(row), kv_head,
                          map.title.c_str(), number_text(value).c_str());
        if (ImGui::IsMouseClicked(ImGuiMouseButton_Left)) {
          ui.wanted.layer = row;
          ui.wanted.kv_heads = {kv_head};
        }
      }
    }
  }
}

}  // namespace kvscope::gui
