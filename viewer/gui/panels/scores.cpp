#include <fmt/format.h>
#include <implot.h>

#include <cmath>

#include "kvscope/scene/histogram.h"
#include "kvscope/scene/palette.h"
#include "kvscope/scene/token_strip.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

ImVec4 plot_colour(char letter, bool dark) {
  return ImGui::ColorConvertU32ToFloat4(to_imgui(fate_colour(letter, dark)));
}

void line_at(const char* id, double x, ImVec4 colour, float weight) {
  if (std::isfinite(x)) {
    ImPlot::PlotInfLines(id, &x, 1, {ImPlotProp_LineColor, colour, ImPlotProp_LineWeight, weight});
  }
}

void plot(const Ui& ui, const ScoreHistogram& histogram) {
  if (!ImPlot::BeginPlot("##scores", ImVec2(-1, -1),
                         ImPlotFlags_NoMenus | ImPlotFlags_NoMouseText)) {
    return;
  }
  ImPlot::SetupAxes(histogram.logarithmic ? "log10 of the score" : "score", "tokens",
                    ImPlotAxisFlags_AutoFit, ImPlotAxisFlags_AutoFit);
  ImPlot::SetupLegend(ImPlotLocation_NorthEast, ImPlotLegendFlags_Horizontal);
  const auto bins = static_cast<int>(histogram.kept.size());
  std::vector<double> middle;
  std::vector<double> both;
  for (int bin = 0; bin < bins; ++bin) {
    const auto at = static_cast<std::size_t>(bin);
    middle.push_back(histogram.first + (bin + 0.5) * histogram.width);
    both.push_back(histogram.kept[at] + histogram.lost[at]);
  }
  const double width = histogram.width * 0.95;
  ImPlot::PlotBars("lost", middle.data(), both.data(), bins, width,
                   {ImPlotProp_FillColor, plot_colour('E', ui.dark), ImPlotProp_LineColor,
                    plot_colour('E', ui.dark)});
  ImPlot::PlotBars("held", middle.data(), histogram.kept.data(), bins, width,
                   {ImPlotProp_FillColor, plot_colour('K', ui.dark), ImPlotProp_LineColor,
                    plot_colour('K', ui.dark)});
  const ImVec4 ink = ImGui::GetStyleColorVec4(ImGuiCol_Text);
  line_at("cut", histogram.cut, ImVec4(ink.x, ink.y, ink.z, 0.6f), ui.px(1));
  line_at("the token", histogram.token, ImVec4(0.94f, 0.89f, 0.26f, 1), ui.px(2));
  ImPlot::EndPlot();
}

/// The one line of "what if" that stored scores answer without the model.
void budget_line(Ui& ui, int kv_head) {
  const LayerDecision& layer = ui.scene.decisions[static_cast<std::size_t>(ui.state.a)]
                                   .decision.layers[static_cast<std::size_t>(ui.state.layer)];
  const int granted = layer.granted[static_cast<std::size_t>(kv_head)];
  const BudgetChange change = budget_change(ui.scene, ui.state, granted);
  if (change.slots_for_token > 0) {
    ImGui::TextDisabled(
        "%s", fmt::format("this token is kept from {} slots on ({:.1f} % of the tokens); the head "
                          "was granted {}",
                          change.slots_for_token,
                          100.0 * change.slots_for_token / std::max(1, layer.tokens), granted)
                  .c_str());
  } else {
    ImGui::TextDisabled("no score decided on this token");
  }
}

}  // namespace

void draw_scores(Ui& ui) {
  State of = ui.state;
  of.first = of.last = 0;
  of.query.clear();
  const ScoreHistogram& histogram =
      ui.caches.histogram.get(fmt::format("{} {}", ui.scene.decisions.size(), to_link(of)),
                              [&] { return score_histogram(ui.scene, ui.state); });
  if (!histogram.missing.empty()) {
    ImGui::TextDisabled("%s", histogram.missing.c_str());
    return;
  }
  const int kv_head = selected_heads(ui.scene, ui.state).front();
  ImGui::TextUnformatted(
      fmt::format("A, layer {}, KV head {}: last kept {:.4g}, first lost {:.4g}; {} by rule{}",
                  ui.scene.layer_of(ui.state.layer), kv_head, histogram.last_kept,
                  histogram.first_lost, histogram.by_rule,
                  histogram.ties > 1 ? fmt::format(", {} tie at the cut", histogram.ties) : "")
          .c_str());
  budget_line(ui, kv_head);
  plot(ui, histogram);
}

}  // namespace kvscope::gui
