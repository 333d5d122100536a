#include "kvscope/scene/fate_map.h"

#include <fmt/format.h>
#include <implot.h>

#include <algorithm>
#include <cmath>

#include "kvscope/scene/palette.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

/// A pyramid and its picture, made anew only when what they depend on changes.
struct CachedMap {
  std::string pyramid_key;
  std::string picture_key;
  ColumnPyramid pyramid;
  ImTextureID texture = 0;
};

CachedMap& cache(const char* slot) {
  static std::map<std::string, CachedMap> maps;
  return maps[slot];
}

std::string heads_key(const State& state) {
  return state.kv_heads.empty() ? "all" : head_list(state.kv_heads);
}

void share_legend(const Ui& ui) {
  ImDrawList* draw = ImGui::GetWindowDrawList();
  ImGui::TextDisabled("share of heads kept  0 %%");
  ImGui::SameLine(0, 6);
  const ImVec2 at = ImGui::GetCursorScreenPos();
  constexpr int steps = 32;
  for (int step = 0; step < steps; ++step) {
    const float x = at.x + static_cast<float>(step) * 4;
    draw->AddRectFilled(ImVec2(x, at.y + 4), ImVec2(x + 4, at.y + 15),
                        to_imgui(share_colour((step + 0.5) / steps, ui.dark)));
  }
  ImGui::Dummy(ImVec2(steps * 4, 12));
  ImGui::SameLine(0, 6);
  ImGui::TextDisabled("100 %%");
  ImGui::SameLine(0, 16);
}

void difference_legend() {
  ImGui::TextColored(ImVec4(0.94f, 0.59f, 0.24f, 1), "only A keeps");
  ImGui::SameLine(0, 12);
  ImGui::TextColored(ImVec4(0.35f, 0.59f, 0.94f, 1), "only B keeps");
  ImGui::SameLine(0, 16);
}

/// The plot around the one textured quad; clicks select layer and token, drag and wheel move the
/// view.
void plot_map(Ui& ui, const char* slot, ImTextureID texture) {
  const double tokens = ui.scene.token_count();
  const int layers = ui.scene.layers();
  double x0 = ui.state.first;
  double x1 = ui.state.last;
  if (!ImPlot::BeginPlot(fmt::format("##{}", slot).c_str(), ImVec2(-1, -1),
                         ImPlotFlags_NoLegend | ImPlotFlags_NoMenus | ImPlotFlags_NoTitle |
                             ImPlotFlags_NoMouseText)) {
    return;
  }
  ImPlot::SetupAxes("token", "layer", ImPlotAxisFlags_NoGridLines,
                    ImPlotAxisFlags_NoGridLines | ImPlotAxisFlags_Invert | ImPlotAxisFlags_Lock);
  ImPlot::SetupAxisLimitsConstraints(ImAxis_X1, 0, tokens);
  ImPlot::SetupAxisLinks(ImAxis_X1, &x0, &x1);
  ImPlot::SetupAxisLimits(ImAxis_Y1, 0, layers, ImPlotCond_Always);
  ImPlot::PlotImage("##map", texture, ImPlotPoint(x0, 0), ImPlotPoint(x1, layers), ImVec2(0, 1),
                    ImVec2(1, 0));
  const double token = ui.state.token + 0.5;
  ImPlot::PlotInfLines("##token", &token, 1,
                       {ImPlotProp_LineColor, ImVec4(1, 1, 1, 0.65f), ImPlotProp_LineWeight, 1.0f});
  const ImVec2 top = ImPlot::PlotToPixels(x0, ui.state.layer);
  const ImVec2 low = ImPlot::PlotToPixels(x1, ui.state.layer + 1);
  ImPlot::PushPlotClipRect();
  ImPlot::GetPlotDrawList()->AddRect(top, low, IM_COL32(255, 255, 255, 200));
  ImPlot::PopPlotClipRect();
  if (ImPlot::IsPlotHovered()) {
    const ImPlotPoint mouse = ImPlot::GetPlotMousePos();
    const int at = std::clamp(static_cast<int>(mouse.x), 0, static_cast<int>(tokens) - 1);
    const int row = std::clamp(static_cast<int>(mouse.y), 0, layers - 1);
    ImGui::SetTooltip("layer %d   token %d '%s'", ui.scene.layer_of(row), at,
                      shown_token(ui.scene.tokens.text(at)).c_str());
    if (ImGui::IsMouseClicked(ImGuiMouseButton_Left)) {
      ui.wanted.token = at;
      ui.wanted.layer = row;
    }
  }
  ImPlot::EndPlot();
  const int first = static_cast<int>(std::floor(x0));
  const int last = static_cast<int>(std::ceil(x1));
  if (first != ui.state.first || last != ui.state.last) {
    ui.wanted.first = first;
    ui.wanted.last = last;
  }
}

struct PictureSize {
  int width;
  int height;
};

PictureSize picture_size() {
  const ImVec2 space = ImGui::GetContentRegionAvail();
  return {std::max(16, static_cast<int>(space.x)), std::max(16, static_cast<int>(space.y))};
}

void share_map(Ui& ui, const char* slot, int index) {
  const SceneDecision& entry = ui.scene.decisions[static_cast<std::size_t>(index)];
  bool any = ui.state.aggregate == "any";
  ImGui::TextUnformatted(entry.title.c_str());
  ImGui::SameLine(0, 16);
  share_legend(ui);
  if (ImGui::Checkbox(fmt::format("any loss##{}", slot).c_str(), &any)) {
    ui.wanted.aggregate = any ? "any" : "mean";
  }
  const PictureSize size = picture_size();
  ImGui::SameLine(0, 16);
  ImGui::TextDisabled("1 px = %.1f tokens",
                      static_cast<double>(ui.state.last - ui.state.first) / size.width);
  CachedMap& map = cache(slot);
  const std::string pyramid_key = fmt::format("{} {}", index, heads_key(ui.state));
  if (map.pyramid_key != pyramid_key) {
    map.pyramid = ColumnPyramid(ui.scene.layers(), ui.scene.token_count(),
                                kept_share(ui.scene, entry, ui.state.kv_heads));
    map.pyramid_key = pyramid_key;
    map.picture_key.clear();
  }
  const std::string picture_key = fmt::format("{} {} {} {} {} {}", ui.state.first, ui.state.last,
                                              size.width, size.height, any, ui.state.theme);
  if (map.picture_key != picture_key) {
    map.texture =
        ui.backend.upload(slot, rasterise_share(map.pyramid, ui.state.first, ui.state.last,
                                                size.width, size.height, any, ui.dark));
    map.picture_key = picture_key;
  }
  plot_map(ui, slot, map.texture);
}

bool nothing_to_show(const Ui& ui) {
  if (ui.scene.decisions.empty()) {
    ImGui::TextDisabled("no decision is open: kvscope decide X.capture.h5 -m snapkv -o DIR");
    return true;
  }
  return false;
}

}  // namespace

void draw_fate_map_a(Ui& ui) {
  if (!nothing_to_show(ui)) {
    share_map(ui, "A", ui.state.a);
  }
}

void draw_fate_map_b(Ui& ui) {
  if (!nothing_to_show(ui)) {
    share_map(ui, "B", ui.state.b);
  }
}

void draw_difference(Ui& ui) {
  if (nothing_to_show(ui)) {
    return;
  }
  difference_legend();
  CachedMap& map = cache("difference");
  const PictureSize size = picture_size();
  ImGui::TextDisabled("mean over the tokens of a pixel");
  const std::string pyramid_key =
      fmt::format("{} {} {}", ui.state.a, ui.state.b, heads_key(ui.state));
  if (map.pyramid_key != pyramid_key) {
    const auto share = [&](int index) {
      return kept_share(ui.scene, ui.scene.decisions[static_cast<std::size_t>(index)],
                        ui.state.kv_heads);
    };
    map.pyramid = ColumnPyramid(ui.scene.layers(), ui.scene.token_count(),
                                share_difference(share(ui.state.a), share(ui.state.b)));
    map.pyramid_key = pyramid_key;
    map.picture_key.clear();
  }
  const std::string picture_key = fmt::format("{} {} {} {} {}", ui.state.first, ui.state.last,
                                              size.width, size.height, ui.state.theme);
  if (map.picture_key != picture_key) {
    map.texture = ui.backend.upload(
        "difference", rasterise_difference(map.pyramid, ui.state.first, ui.state.last, size.width,
                                           size.height, ui.dark));
    map.picture_key = picture_key;
  }
  plot_map(ui, "difference", map.texture);
}

}  // namespace kvscope::gui
