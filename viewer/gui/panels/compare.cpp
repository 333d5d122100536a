#include <fmt/format.h>
#include <implot.h>

#include <algorithm>
#include <numeric>

#include "kvscope/scene/agreement.h"
#include "kvscope/scene/commands.h"
#include "viewer.h"

namespace kvscope::gui {

void draw_agreement(Ui& ui) {
  if (ui.scene.decisions.size() < 2 || ui.state.a == ui.state.b) {
    ImGui::TextDisabled("choose two different decisions as A and B");
    return;
  }
  const SceneDecision& a = ui.scene.decisions[static_cast<std::size_t>(ui.state.a)];
  const SceneDecision& b = ui.scene.decisions[static_cast<std::size_t>(ui.state.b)];
  const Agreement compared = agreement(a.decision, b.decision);
  const double cells = static_cast<double>(compared.total.both + compared.total.only_a +
                                           compared.total.only_b + compared.total.neither);
  const auto percent = [cells](std::int64_t count) {
    return 100 * static_cast<double>(count) / cells;
  };
  ImGui::TextUnformatted(fmt::format("A {}", a.title).c_str());
  ImGui::TextUnformatted(fmt::format("B {}", b.title).c_str());
  ImGui::TextUnformatted(
      fmt::format("both {:.1f} %   only A {:.1f} %   only B {:.1f} %   Jaccard {:.3f}",
                  percent(compared.total.both), percent(compared.total.only_a),
                  percent(compared.total.only_b), compared.total.jaccard())
          .c_str());
  ImGui::TextDisabled("%s", compared.remark().c_str());
  ImGui::SameLine();
  const std::string worst =
      fmt::format("worst: layer {}, head {}", ui.scene.layer_of(compared.worst_layer_row),
                  compared.worst_kv_head);
  if (ImGui::SmallButton(worst.c_str())) {
    ui.wanted.layer = compared.worst_layer_row;
    ui.wanted.kv_heads = {compared.worst_kv_head};
  }
  std::vector<double> layer;
  std::vector<double> jaccard;
  for (std::size_t row = 0; row < compared.layer.size(); ++row) {
    layer.push_back(ui.scene.layer_of(static_cast<int>(row)));
    jaccard.push_back(compared.layer[row].jaccard());
  }
  if (ImPlot::BeginPlot("##agreement", ImVec2(-1, -1),
                        ImPlotFlags_NoLegend | ImPlotFlags_NoMenus)) {
    ImPlot::SetupAxes("layer", "Jaccard", ImPlotAxisFlags_AutoFit, 0);
    ImPlot::SetupAxisLimits(ImAxis_Y1, 0, 1, ImPlotCond_Always);
    ImPlot::PlotBars("##bars", layer.data(), jaccard.data(), static_cast<int>(layer.size()), 0.7);
    ImPlot::EndPlot();
  }
}

void draw_summary(Ui& ui) {
  if (ui.scene.decisions.empty()) {
    ImGui::TextDisabled("no decision is open");
    return;
  }
  if (!ImGui::BeginTable("methods", 9,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(0, 1);
  ImGui::TableSetupColumn("method", ImGuiTableColumnFlags_WidthStretch);
  for (const char* name : {"run", "slots held", "kept", "merged", "evicted", "dropped",
                           "output error", "attention kept"}) {
    ImGui::TableSetupColumn(name);
  }
  ImGui::TableHeadersRow();
  const auto mean = [](const std::vector<float>& values) {
    return values.empty()
               ? std::string("-")
               : fmt::format("{:.3f}", std::accumulate(values.begin(), values.end(), 0.0) /
                                           static_cast<double>(values.size()));
  };
  for (std::size_t index = 0; index < ui.scene.decisions.size(); ++index) {
    const SceneDecision& entry = ui.scene.decisions[index];
    const FateCounts& fates = entry.fates.total;
    const auto share = [&](std::int64_t cells) {
      return fmt::format("{:.1f} %",
                         100.0 * static_cast<double>(cells) /
                             static_cast<double>(std::max<std::int64_t>(fates.total(), 1)));
    };
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    if (ImGui::Selectable(entry.title.c_str(), static_cast<int>(index) == ui.state.a,
                          ImGuiSelectableFlags_SpanAllColumns)) {
      ui.wanted.a = static_cast<int>(index);
    }
    const std::string cells[] = {!entry.decision.replayed      ? "live"
                                 : entry.decision.replay_exact ? "replay"
                                                               : "replay ~",
                                 fmt::format("{}", fates.holding()),
                                 share(fates.holding()),
                                 share(fates.merged),
                                 share(fates.evicted),
                                 share(fates.dropped),
                                 mean(entry.decision.metrics.output_error),
                                 mean(entry.decision.metrics.retained_mass)};
    for (const std::string& text : cells) {
      ImGui::TableNextColumn();
      ImGui::TextUnformatted(text.c_str());
    }
  }
  ImGui::EndTable();
  if (ImGui::IsItemHovered()) {
    const DecisionMetrics& metrics =
        ui.scene.decisions[static_cast<std::size_t>(ui.state.a)].decision.metrics;
    ImGui::SetTooltip("judged by: %s", metrics.empty() ? "nothing" : metrics.queries.c_str());
  }
}

}  // namespace kvscope::gui
