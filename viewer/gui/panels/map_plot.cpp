#include "map_plot.h"

#include <fmt/format.h>
#include <implot.h>

#include <algorithm>
#include <cmath>

#include "fonts.h"

namespace kvscope::gui {
namespace {

constexpr int most_marks = 512;

/// Rows carry the true layer numbers, each in the middle of its row.
void layer_ticks(const Ui& ui, float room) {
  const int layers = ui.scene.layers();
  const int each =
      std::max(1, static_cast<int>(std::ceil(static_cast<float>(layers) * ImGui::GetFontSize() *
                                             1.1f / std::max(room, 1.0f))));
  std::vector<double> at;
  std::vector<std::string> texts;
  for (int row = 0; row < layers; row += each) {
    at.push_back(row + 0.5);
    texts.push_back(fmt::format("L{}", ui.scene.layer_of(row)));
  }
  std::vector<const char*> labels;
  labels.reserve(texts.size());
  for (const std::string& text : texts) {
    labels.push_back(text.c_str());
  }
  ImPlot::SetupAxisTicks(ImAxis_Y1, at.data(), static_cast<int>(at.size()), labels.data());
}

void marks(Ui& ui, double x0, double x1) {
  ImDrawList* draw = ImPlot::GetPlotDrawList();
  ImPlot::PushPlotClipRect();
  const ImU32 ink = ImGui::GetColorU32(ImGuiCol_Text, 0.85f);
  const float x = ImPlot::PlotToPixels(ui.state.token + 0.5, 0).x;
  const ImVec2 top = ImPlot::PlotToPixels(x0, ui.state.layer);
  const ImVec2 low = ImPlot::PlotToPixels(x1, ui.state.layer + 1);
  const float plot_top = ImPlot::GetPlotPos().y;
  const float plot_low = plot_top + ImPlot::GetPlotSize().y;
  draw->AddLine(ImVec2(x, plot_top), ImVec2(x, plot_low), ink, ui.px(1));
  draw->AddTriangleFilled(ImVec2(x - ui.px(5), plot_top), ImVec2(x + ui.px(5), plot_top),
                          ImVec2(x, plot_top + ui.px(7)), ink);
  draw->AddRect(top, low, ink, 0.0f, ui.px(1));
  int shown = 0;
  if (!ui.state.query.empty()) {
    const SearchResult& found = found_matches(ui);
    for (const Match& match : found.matches) {
      if (match.last > x0 && match.first < x1 && ++shown <= most_marks) {
        const float left = ImPlot::PlotToPixels(match.first, 0).x;
        const float right = std::max(left + ui.px(2), ImPlot::PlotToPixels(match.last, 0).x);
        draw->AddRectFilled(ImVec2(left, plot_low - ui.px(5)), ImVec2(right, plot_low), ink);
      }
    }
  }
  ImPlot::PopPlotClipRect();
}

void pick(Ui& ui) {
  const ImPlotPoint mouse = ImPlot::GetPlotMousePos();
  const int at = std::clamp(static_cast<int>(mouse.x), 0, ui.scene.token_count() - 1);
  const int row = std::clamp(static_cast<int>(mouse.y), 0, ui.scene.layers() - 1);
  ImGui::SetTooltip("layer %d   token %d '%s'", ui.scene.layer_of(row), at,
                    drawable(shown_token(ui.scene.tokens.text(at))).c_str());
  if (ImGui::IsMouseReleased(ImGuiMouseButton_Left) &&
      ImGui::GetIO().MouseDragMaxDistanceSqr[0] < ui.px(4) * ui.px(4)) {
    ui.wanted.token = at;
    ui.wanted.layer = row;
  }
}

}  // namespace

std::string heads_key(const State& state) {
  return state.kv_heads.empty() ? "all" : head_list(state.kv_heads);
}

ShareRaster raster_view(const Ui& ui) {
  const ImVec2 space = ImGui::GetContentRegionAvail();
  ShareRaster view;
  view.first = ui.state.first;
  view.last = ui.state.last;
  view.width = std::clamp(static_cast<int>(space.x), 16, 8192);
  view.height = std::clamp(static_cast<int>(space.y), 16, 8192);
  view.worst = ui.state.aggregate == "any";
  view.dark = ui.dark;
  return view;
}

std::string raster_key(const Ui& ui, const ShareRaster& view) {
  return fmt::format("{} {} {} {} {} {}", view.first, view.last, view.width, view.height,
                     view.worst, ui.state.theme);
}

void aggregate_choice(Ui& ui, const char* slot) {
  bool any = ui.state.aggregate == "any";
  if (ImGui::Checkbox(fmt::format("any loss##{}", slot).c_str(), &any)) {
    ui.wanted.aggregate = any ? "any" : "mean";
  }
  const double folded = static_cast<double>(ui.state.last - ui.state.first) /
                        std::max(1.0f, ImGui::GetContentRegionAvail().x);
  if (folded > 1) {
    ImGui::SameLine(0, ui.px(12));
    ImGui::TextDisabled("1 px = %.1f tokens", folded);
  }
}

void plot_map(Ui& ui, const char* slot, ImTextureID texture) {
  double x0 = ui.state.first;
  double x1 = ui.state.last;
  const int layers = ui.scene.layers();
  const float room = ImGui::GetContentRegionAvail().y - 3 * ImGui::GetFontSize();
  if (!ImPlot::BeginPlot(fmt::format("##{}", slot).c_str(), ImVec2(-1, -1),
                         ImPlotFlags_NoLegend | ImPlotFlags_NoMenus | ImPlotFlags_NoTitle |
                             ImPlotFlags_NoMouseText)) {
    return;
  }
  ImPlot::SetupAxes(nullptr, nullptr, ImPlotAxisFlags_NoGridLines,
                    ImPlotAxisFlags_NoGridLines | ImPlotAxisFlags_NoTickMarks |
                        ImPlotAxisFlags_Invert | ImPlotAxisFlags_Lock);
  ImPlot::SetupAxisFormat(ImAxis_X1, "%.0f");
  ImPlot::SetupAxisLimitsConstraints(ImAxis_X1, 0, std::max(1, ui.scene.token_count()));
  ImPlot::SetupAxisLinks(ImAxis_X1, &x0, &x1);
  ImPlot::SetupAxisLimits(ImAxis_Y1, 0, layers, ImPlotCond_Always);
  layer_ticks(ui, room);
  ImPlot::PlotImage("##map", texture, ImPlotPoint(ui.state.first, 0),
                    ImPlotPoint(ui.state.last, layers), ImVec2(0, 1), ImVec2(1, 0));
  marks(ui, x0, x1);
  if (ImPlot::IsPlotHovered()) {
    pick(ui);
  }
  ImPlot::EndPlot();
  const int first = static_cast<int>(std::floor(x0));
  const int last = static_cast<int>(std::ceil(x1));
  if (first != ui.state.first || last != ui.state.last) {
    ui.wanted.first = std::max(0, first);
    ui.wanted.last = last;
  }
}

}  // namespace kvscope::gui
