#include <fmt/format.h>
#include <implot.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kvscope/scene/palette.h"
#include "kvscope/scene/spectra.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

bool no_spectrum(const Ui& ui) {
  if (!ui.scene.spectrum || ui.scene.spectrum->layers.empty()) {
    ImGui::TextDisabled("no spectrum is open: kvscope spectral MODEL -o S.spectrum.h5");
    return true;
  }
  return false;
}

/// The spectrum's row of the layer that the state shows; the first where it has none.
int row_of(const Ui& ui) {
  const std::vector<int>& layers = ui.scene.spectrum->layers;
  if (ui.scene.layers() == 0) {
    return std::clamp(ui.state.layer, 0, static_cast<int>(layers.size()) - 1);
  }
  const auto found = std::find(layers.begin(), layers.end(), ui.scene.layer_of(ui.state.layer));
  return found == layers.end() ? 0 : static_cast<int>(found - layers.begin());
}

const std::vector<SpectrumPlot>& plots_of(Ui& ui) {
  SpectrumSelection selection;
  selection.row = row_of(ui);
  const int heads = std::max(1, ui.scene.spectrum->kv_heads);
  selection.kv_head = ui.state.kv_heads.empty() ? 0 : std::min(ui.state.kv_heads[0], heads - 1);
  return ui.caches.spectra.get(fmt::format("{} {}", selection.row, selection.kv_head),
                               [&] { return spectrum_plots(*ui.scene.spectrum, selection); });
}

/// q, k, v, o as fates have them apart; faint curves stand back.
ImVec4 curve_colour(int index, bool faint) {
  constexpr Colour colours[] = {{0x56, 0xB4, 0xE9}, {0xE6, 0x9F, 0x00}, {0x2A, 0xB0, 0x85},
                                {0xCC, 0x79, 0xA7}, {0xB5, 0xB5, 0x4A}, {0xD5, 0x5E, 0x00}};
  const Colour colour = colours[static_cast<std::size_t>(index) % std::size(colours)];
  return ImGui::ColorConvertU32ToFloat4(to_imgui(colour, faint ? 0.45f : 1.0f));
}

void draw_curve(const Ui& ui, const PlotCurve& drawn) {
  const Curve& curve = drawn.curve;
  const auto count = static_cast<int>(std::min(curve.x.size(), curve.y.size()));
  const ImVec4 colour = curve_colour(drawn.colour, drawn.faint);
  if (drawn.kind == CurveKind::points) {
    ImPlot::PlotScatter(curve.label.c_str(), curve.x.data(), curve.y.data(), count,
                        {ImPlotProp_MarkerSize, ui.px(2.5f), ImPlotProp_MarkerFillColor, colour,
                         ImPlotProp_MarkerLineColor, colour});
  } else if (drawn.kind == CurveKind::stems) {
    ImPlot::PlotStems(curve.label.c_str(), curve.x.data(), curve.y.data(), count, 0,
                      {ImPlotProp_LineColor, colour, ImPlotProp_MarkerFillColor, colour,
                       ImPlotProp_MarkerLineColor, colour, ImPlotProp_MarkerSize, ui.px(2)});
  } else {
    ImPlot::PlotLine(
        curve.label.c_str(), curve.x.data(), curve.y.data(), count,
        {ImPlotProp_LineColor, colour, ImPlotProp_LineWeight, ui.px(drawn.faint ? 1.0f : 2.0f)});
  }
}

void draw_level(const Ui& ui, const PlotLevel& level) {
  const ImVec4 colour = curve_colour(level.colour, true);
  const double ends[] = {level.low, level.high};
  ImPlot::PlotInfLines(level.label.c_str(), ends, level.high > level.low ? 2 : 1,
                       {ImPlotProp_LineColor, colour, ImPlotProp_LineWeight, ui.px(1),
                        ImPlotProp_Flags, ImPlotInfLinesFlags_Horizontal});
}

/// What both axes show: the identity line spans it and, fitted to, widens neither.
std::pair<double, double> shared_range(const SpectrumPlot& plot) {
  double low[] = {HUGE_VAL, HUGE_VAL};
  double high[] = {-HUGE_VAL, -HUGE_VAL};
  for (const PlotCurve& drawn : plot.curves) {
    for (const auto& [axis, values] :
         {std::pair(0, &drawn.curve.x), std::pair(1, &drawn.curve.y)}) {
      for (const double value : *values) {
        low[axis] = std::min(low[axis], value);
        high[axis] = std::max(high[axis], value);
      }
    }
  }
  return {std::max(low[0], low[1]), std::min(high[0], high[1])};
}

void draw_curves(const Ui& ui, const SpectrumPlot& plot) {
  if (!ImPlot::BeginPlot(fmt::format("##{}", plot.name).c_str(), ImVec2(-1, -1),
                         ImPlotFlags_NoMenus)) {
    return;
  }
  ImPlot::SetupAxes(plot.x_label.c_str(), plot.y_label.c_str(), ImPlotAxisFlags_AutoFit,
                    ImPlotAxisFlags_AutoFit);
  const std::size_t names = plot.curves.size() + plot.levels.size();
  constexpr std::size_t most_names = 12;  // more would not leave room for the plot
  ImPlot::SetupLegend(ImPlotLocation_East, ImPlotLegendFlags_Outside);
  if (plot.log_x) {
    ImPlot::SetupAxisScale(ImAxis_X1, ImPlotScale_Log10);
  }
  if (plot.log_y) {
    ImPlot::SetupAxisScale(ImAxis_Y1, ImPlotScale_Log10);
  }
  for (const PlotCurve& curve : plot.curves) {
    PlotCurve named = curve;
    if (names > most_names && curve.faint) {
      named.curve.label = "##" + curve.curve.label;
    }
    draw_curve(ui, named);
  }
  for (const PlotLevel& level : plot.levels) {
    draw_level(ui, level);
  }
  if (plot.identity) {
    const auto [low, high] = shared_range(plot);
    const double ends[] = {low, high};
    if (low < high) {
      ImPlot::PlotLine("equal", ends, ends, 2,
                       {ImPlotProp_LineColor, ImGui::GetStyleColorVec4(ImGuiCol_TextDisabled),
                        ImPlotProp_LineWeight, ui.px(1)});
    }
  }
  ImPlot::EndPlot();
}

/// The number in its cell, where there is room.
void write_value(ImDrawList* draw, double value, Colour colour, ImVec2 at, ImVec2 end) {
  const std::string text = fmt::format("{:.2f}", value);
  const ImVec2 size = ImGui::CalcTextSize(text.c_str());
  if (!std::isfinite(value) || size.x > end.x - at.x - 2 || size.y > end.y - at.y) {
    return;
  }
  const bool bright = 299 * colour.r + 587 * colour.g + 114 * colour.b > 140 * 1000;
  draw->AddText(ImVec2((at.x + end.x - size.x) / 2, (at.y + end.y - size.y) / 2),
                bright ? IM_COL32(20, 20, 20, 255) : IM_COL32(240, 240, 240, 255), text.c_str());
}

/// Cells of a grid; `by_layer`: its rows are layers, which a click selects.
void draw_grid(Ui& ui, const PlotGrid& grid, bool by_layer, ImVec2 origin, ImVec2 cell) {
  ImDrawList* draw = ImGui::GetWindowDrawList();
  for (int row = 0; row < grid.rows; ++row) {
    for (int column = 0; column < grid.columns; ++column) {
      const double value = grid.values[static_cast<std::size_t>(row * grid.columns + column)];
      const ImVec2 at(origin.x + cell.x * static_cast<float>(column),
                      origin.y + cell.y * static_cast<float>(row));
      const ImVec2 end(at.x + cell.x - 1, at.y + cell.y - 1);
      const Colour colour = share_colour(value, ui.dark);
      draw->AddRectFilled(at, end, to_imgui(colour));
      write_value(draw, value, colour, at, end);
      if (!ImGui::IsMouseHoveringRect(at, end) || !ImGui::IsWindowHovered()) {
        continue;
      }
      const std::string where =
          by_layer ? fmt::format("layer {}, head {}",
                                 ui.scene.spectrum->layers[static_cast<std::size_t>(row)], column)
                   : fmt::format("heads {} and {}", row, column);
      ImGui::SetTooltip("%s, %s: %.3f", grid.label.c_str(), where.c_str(), value);
      if (by_layer && ImGui::IsMouseClicked(ImGuiMouseButton_Left)) {
        ui.wanted.layer = row;
      }
    }
  }
}

void draw_grids(Ui& ui, const SpectrumPlot& plot) {
  const ImVec2 origin = ImGui::GetCursorScreenPos();
  const ImVec2 space = ImGui::GetContentRegionAvail();
  const float gap = ui.px(16);
  const float label = ui.px(34);
  const float top = ImGui::GetFontSize() + ui.px(4);
  const auto layers = static_cast<int>(ui.scene.spectrum->layers.size());
  int columns = 1;
  int rows = 1;
  for (const PlotGrid& grid : plot.grids) {
    columns += grid.columns;
    rows = std::max(rows, grid.rows);
  }
  const float room = space.x - label - gap * static_cast<float>(plot.grids.size());
  const ImVec2 cell(std::max(room / static_cast<float>(columns), ui.px(2)),
                    std::max((space.y - top) / static_cast<float>(rows), ui.px(2)));
  const bool by_layer = rows == layers;
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const int each = std::max(1, static_cast<int>(std::ceil(ImGui::GetFontSize() / cell.y)));
  for (int row = 0; row < rows; row += each) {
    const std::string name =
        by_layer ? fmt::format("L{}", ui.scene.spectrum->layers[static_cast<std::size_t>(row)])
                 : fmt::format("{}", row);
    draw->AddText(ImVec2(origin.x, origin.y + top + cell.y * static_cast<float>(row)),
                  ImGui::GetColorU32(ImGuiCol_TextDisabled), name.c_str());
  }
  float x = origin.x + label;
  for (const PlotGrid& grid : plot.grids) {
    draw->AddText(ImVec2(x, origin.y), ImGui::GetColorU32(ImGuiCol_Text), grid.label.c_str());
    draw_grid(ui, grid, by_layer, ImVec2(x, origin.y + top), cell);
    x += cell.x * static_cast<float>(grid.columns) + gap;
  }
}

}  // namespace

void draw_spectrum_plot(Ui& ui, const char* name) {
  if (no_spectrum(ui)) {
    return;
  }
  for (const SpectrumPlot& plot : plots_of(ui)) {
    if (plot.name != name) {
      continue;
    }
    ImGui::TextDisabled("%s", plot.title.c_str());
    if (plot.empty()) {
      ImGui::TextWrapped("%s", plot.missing.c_str());
    } else if (!plot.grids.empty()) {
      draw_grids(ui, plot);
    } else {
      draw_curves(ui, plot);
    }
  }
}

void draw_ranks(Ui& ui) {
  if (no_spectrum(ui)) {
    return;
  }
  SpectrumPlot plot;
  plot.name = "ranks";
  plot.x_label = "layer";
  plot.y_label = "effective rank / null";
  plot.levels = {{"Gaussian", 1, 1, 4}};
  for (const Curve& curve : layer_curves(*ui.scene.spectrum, "erank_energy_rel")) {
    plot.curves.push_back({curve, CurveKind::line, static_cast<int>(plot.curves.size()), false});
  }
  ImGui::TextDisabled("effective rank over that of a Gaussian matrix of the same shape");
  draw_curves(ui, plot);
}

void draw_claims(Ui& ui) {
  if (no_spectrum(ui)) {
    return;
  }
  if (ui.scene.spectrum->claims.empty()) {
    ImGui::TextDisabled("the spectrum file holds no claims");
    return;
  }
  if (!ImGui::BeginTable("claims", 5,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(0, 1);
  ImGui::TableSetupColumn("claim", ImGuiTableColumnFlags_WidthStretch);
  for (const char* name : {"verdict", "statistic (95 %)", "p", "n"}) {
    ImGui::TableSetupColumn(name);
  }
  ImGui::TableHeadersRow();
  for (const SpectrumClaim& claim : ui.scene.spectrum->claims) {
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    ImGui::TextWrapped("%s", claim.statement.c_str());
    const std::string cells[] = {
        claim.verdict,
        fmt::format("{:.2f} ({:.2f} to {:.2f})", claim.statistic, claim.low, claim.high),
        fmt::format("{:.2g}", claim.p), fmt::format("{}", claim.count)};
    for (const std::string& text : cells) {
      ImGui::TableNextColumn();
      ImGui::TextUnformatted(text.c_str());
    }
  }
  ImGui::EndTable();
}

}  // namespace kvscope::gui
