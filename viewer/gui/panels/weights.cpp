#include <fmt/format.h>
#include <implot.h>

#include <algorithm>
#include <cmath>

#include "kvscope/scene/palette.h"
#include "kvscope/scene/spectra.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

bool no_spectrum(const Ui& ui) {
  if (!ui.scene.spectrum) {
    ImGui::TextDisabled("no spectrum is open: kvscope spectral MODEL -o S.spectrum.h5");
    return true;
  }
  return false;
}

void plot_curves(const char* id, const char* x, const char* y, const std::vector<Curve>& curves,
                 bool logarithmic, ImPlotLocation legend = ImPlotLocation_SouthWest) {
  if (curves.empty()) {
    ImGui::TextDisabled("the spectrum file does not hold this");
    return;
  }
  if (!ImPlot::BeginPlot(id, ImVec2(-1, -1), ImPlotFlags_NoMenus)) {
    return;
  }
  ImPlot::SetupAxes(x, y, ImPlotAxisFlags_AutoFit, ImPlotAxisFlags_AutoFit);
  ImPlot::SetupLegend(legend);
  if (logarithmic) {
    ImPlot::SetupAxisScale(ImAxis_X1, ImPlotScale_Log10);
    ImPlot::SetupAxisScale(ImAxis_Y1, ImPlotScale_Log10);
  }
  for (const Curve& curve : curves) {
    ImPlot::PlotLine(curve.label.c_str(), curve.x.data(), curve.y.data(),
                     static_cast<int>(curve.x.size()), {ImPlotProp_LineWeight, 2.0f});
  }
  ImPlot::EndPlot();
}

}  // namespace

void draw_eigenvalues(Ui& ui) {
  if (no_spectrum(ui)) {
    return;
  }
  const Spectrum& spectrum = *ui.scene.spectrum;
  static int row = 0;  // a file without a capture has no layer in the state
  row = ui.scene.layers() > 0 ? ui.state.layer : row;
  ImGui::SetNextItemWidth(200);
  if (ImGui::SliderInt("layer", &row, 0, static_cast<int>(spectrum.layers.size()) - 1)) {
    ui.wanted.layer = row;
  }
  ImGui::SameLine();
  ImGui::TextDisabled("share of each eigenvalue of W W^T, largest first");
  plot_curves("##eigen", "rank", "share of the energy", eigen_curves(spectrum, row), true);
}

void draw_ranks(Ui& ui) {
  if (no_spectrum(ui)) {
    return;
  }
  ImGui::TextDisabled("effective rank over that of a Gaussian matrix of the same shape");
  plot_curves("##ranks", "layer", "effective rank / null",
              layer_curves(*ui.scene.spectrum, "erank_energy_rel"), false);
}

void draw_asymmetry(Ui& ui) {
  if (no_spectrum(ui)) {
    return;
  }
  ImGui::TextDisabled("above 0: keys are more concentrated than values (nats)");
  plot_curves("##asymmetry", "layer", "A_KV (nats)", asymmetry_curves(*ui.scene.spectrum), false,
              ImPlotLocation_North);
}

void draw_head_grid(Ui& ui) {
  if (no_spectrum(ui)) {
    return;
  }
  const Spectrum& spectrum = *ui.scene.spectrum;
  ImDrawList* draw = ImGui::GetWindowDrawList();
  ImGui::TextDisabled(
      "effective rank / null by layer (down) and head (across): dark = concentrated");
  const ImVec2 origin = ImGui::GetCursorScreenPos();
  const ImVec2 space = ImGui::GetContentRegionAvail();
  const float gap = 18;
  const float label = 34;
  const char* projections[] = {"q", "k", "v", "o"};
  int columns = 0;
  for (const char* projection : projections) {
    columns += head_grid(spectrum, projection, "erank_energy_rel").heads;
  }
  float x = origin.x + label;
  for (const char* projection : projections) {
    const HeadGrid grid = head_grid(spectrum, projection, "erank_energy_rel");
    if (grid.heads == 0) {
      continue;
    }
    const float width =
        (space.x - label - 3 * gap) * static_cast<float>(grid.heads) / static_cast<float>(columns);
    const float cell_height = (space.y - 22) / static_cast<float>(grid.layers);
    const float cell_width = width / static_cast<float>(grid.heads);
    draw->AddText(ImVec2(x, origin.y), ImGui::GetColorU32(ImGuiCol_Text),
                  fmt::format("W_{}", static_cast<char>(std::toupper(projection[0]))).c_str());
    for (int row = 0; row < grid.layers; ++row) {
      const float y = origin.y + 20 + cell_height * static_cast<float>(row);
      if (x == origin.x + label &&
          row % std::max(1, static_cast<int>(std::ceil(16 / cell_height))) == 0) {
        draw->AddText(ImVec2(origin.x, y - 3), ImGui::GetColorU32(ImGuiCol_TextDisabled),
                      fmt::format("L{}", spectrum.layers[static_cast<std::size_t>(row)]).c_str());
      }
      for (int head = 0; head < grid.heads; ++head) {
        const double value = grid.values[static_cast<std::size_t>(row * grid.heads + head)];
        const ImVec2 at(x + cell_width * static_cast<float>(head), y);
        const ImVec2 end(at.x + cell_width - 1, at.y + cell_height - 1);
        draw->AddRectFilled(at, end, to_imgui(share_colour(value, ui.dark)));
        if (ImGui::IsMouseHoveringRect(at, end) && ImGui::IsWindowHovered()) {
          ImGui::SetTooltip("W_%s layer %d head %d: %.3f", projection,
                            spectrum.layers[static_cast<std::size_t>(row)], head, value);
        }
      }
    }
    x += width + gap;
  }
}

}  // namespace kvscope::gui
