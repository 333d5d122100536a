#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kvscope/scene/head_map.h"
#include "kvscope/scene/palette.h"
#include "kvscope/scene/texts.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

void choose_value(Ui& ui) {
  const auto current =
      std::find_if(head_values().begin(), head_values().end(),
                   [&](const HeadValue& value) { return ui.state.head_value == value.id; });
  ImGui::SetNextItemWidth(ui.px(260));
  if (ImGui::BeginCombo("##value", current->title)) {
    for (const HeadValue& value : head_values()) {
      if (ImGui::Selectable(value.title, ui.state.head_value == value.id)) {
        ui.wanted.head_value = value.id;
      }
    }
    ImGui::EndCombo();
  }
}

std::string number_text(double value) {
  return std::isnan(value)        ? "–"
         : std::abs(value) >= 100 ? grouped_digits(std::llround(value))
         : std::abs(value) >= 10  ? fmt::format("{:.1f}", value)
         : value == std::floor(value) && std::abs(value) < 10 && value != 0
             ? fmt::format("{:.0f}", value)
             : fmt::format("{:.3f}", value);
}

const HeadMap& cached_map(Ui& ui) {
  State of = ui.state;
  of.token = of.first = of.last = of.layer = 0;
  of.kv_heads.clear();
  of.query.clear();
  const bool pair = of.head_value == "jaccard" || of.head_value == "rank";
  of.b = pair ? of.b : 0;
  return ui.caches.heads.get(fmt::format("{} {}", ui.scene.decisions.size(), to_link(of)),
                             [&] { return head_map(ui.scene, ui.state); });
}

/// Where the cells of a head map lie.
struct Grid {
  ImVec2 origin;
  float label = 0;   ///< width of the layer names
  float margin = 0;  ///< width of the numbers on the right
  float top = 0;     ///< height of the head names
  float cell_width = 0;
  float cell_height = 0;

  ImVec2 at(int row, int kv_head) const {
    return {origin.x + label + cell_width * static_cast<float>(kv_head),
            origin.y + top + cell_height * static_cast<float>(row)};
  }
};

Grid grid_of(const Ui& ui, const HeadMap& map) {
  const ImVec2 space = ImGui::GetContentRegionAvail();
  Grid grid;
  grid.origin = ImGui::GetCursorScreenPos();
  grid.label = ui.px(34);
  grid.margin = ui.px(64);
  grid.top = ImGui::GetFontSize() + ui.px(4);
  grid.cell_height =
      std::max(ui.px(3), (space.y - grid.top - ui.px(4)) / static_cast<float>(map.layers));
  grid.cell_width = std::max(ui.px(4), (space.x - grid.label - grid.margin) /
                                           static_cast<float>(std::max(1, map.kv_heads)));
  return grid;
}

void names(const Ui& ui, const HeadMap& map, const Grid& grid) {
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const ImU32 faint = ImGui::GetColorU32(ImGuiCol_TextDisabled);
  const int each_head = std::max(1, static_cast<int>(std::ceil(ui.px(26) / grid.cell_width)));
  for (int kv_head = 0; kv_head < map.kv_heads; kv_head += each_head) {
    const std::string name = fmt::format("{}{}", map.kv_heads <= 8 ? "KV " : "", kv_head);
    const float width = ImGui::CalcTextSize(name.c_str()).x;
    draw->AddText(ImVec2(grid.at(0, kv_head).x + std::max(0.0f, (grid.cell_width - width) / 2),
                         grid.origin.y),
                  faint, name.c_str());
  }
  const std::string total = map.count ? "sum" : "mean";
  const float right = grid.at(0, map.kv_heads).x + grid.margin;
  draw->AddText(ImVec2(right - ImGui::CalcTextSize(total.c_str()).x, grid.origin.y), faint,
                total.c_str());
  const int each = std::max(
      1, static_cast<int>(std::ceil(ImGui::GetFontSize() / std::max(grid.cell_height, 1.0f))));
  for (int row = 0; row < map.layers; row += each) {
    const float y = grid.at(row, 0).y + (grid.cell_height - ImGui::GetFontSize()) / 2;
    draw->AddText(ImVec2(grid.origin.x, y), faint,
                  fmt::format("L{}", ui.scene.layer_of(row)).c_str());
    const std::string value = number_text(map.layer_value[static_cast<std::size_t>(row)]);
    draw->AddText(ImVec2(right - ImGui::CalcTextSize(value.c_str()).x, y), faint, value.c_str());
  }
}

void draw_cell(Ui& ui, const HeadMap& map, const Grid& grid, int row, int kv_head) {
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const double value = map.at(row, kv_head);
  const double part = map.most > map.least ? (value - map.least) / (map.most - map.least) : 0.5;
  const Colour colour = map.cost ? cost_colour(part, ui.dark) : share_colour(part, ui.dark);
  const ImVec2 at = grid.at(row, kv_head);
  const ImVec2 end(at.x + grid.cell_width - 1, at.y + grid.cell_height - 1);
  draw->AddRectFilled(at, end, to_imgui(colour));
  const std::string text = number_text(value);
  const ImVec2 size = ImGui::CalcTextSize(text.c_str());
  if (size.y <= grid.cell_height + ui.px(1) && size.x + ui.px(6) <= grid.cell_width) {
    draw->AddText(
        ImVec2(at.x + (grid.cell_width - size.x) / 2, at.y + (grid.cell_height - size.y) / 2),
        to_imgui(ink_on(colour)), text.c_str());
  }
  const bool chosen =
      row == ui.state.layer &&
      (ui.state.kv_heads.empty() || std::find(ui.state.kv_heads.begin(), ui.state.kv_heads.end(),
                                              kv_head) != ui.state.kv_heads.end());
  if (chosen) {
    draw->AddRect(at, end, ImGui::GetColorU32(ImGuiCol_Text), 0.0f, ui.px(2));
  }
  if (ImGui::IsMouseHoveringRect(at, end) && ImGui::IsWindowHovered()) {
    ImGui::SetTooltip("layer %d, KV head %d\n%s: %s", ui.scene.layer_of(row), kv_head,
                      map.title.c_str(), number_text(value).c_str());
    if (ImGui::IsMouseClicked(ImGuiMouseButton_Left)) {
      ui.wanted.layer = row;
      ui.wanted.kv_heads = {kv_head};
    }
  }
}

}  // namespace

void draw_heads(Ui& ui) {
  choose_value(ui);
  const HeadMap& map = cached_map(ui);
  if (!map.missing.empty()) {
    ImGui::TextDisabled("%s", map.missing.c_str());
    return;
  }
  ImGui::SameLine();
  ImGui::AlignTextToFramePadding();
  ImGui::TextDisabled("%s to %s, %s %s", number_text(map.least).c_str(),
                      number_text(map.most).c_str(), map.count ? "sum" : "mean",
                      number_text(map.total).c_str());
  if (map.layers == 0 || map.kv_heads == 0) {
    return;
  }
  ImGui::BeginChild("heads");
  const Grid grid = grid_of(ui, map);
  names(ui, map, grid);
  for (int row = 0; row < map.layers; ++row) {
    for (int kv_head = 0; kv_head < map.kv_heads; ++kv_head) {
      draw_cell(ui, map, grid, row, kv_head);
    }
  }
  ImGui::Dummy(ImVec2(1, grid.top + grid.cell_height * static_cast<float>(map.layers)));
  ImGui::EndChild();
}

}  // namespace kvscope::gui
