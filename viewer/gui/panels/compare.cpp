#include <fmt/format.h>
#include <implot.h>

#include <algorithm>
#include <array>

#include "fonts.h"
#include "kvscope/scene/agreement.h"
#include "kvscope/scene/token_class.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

bool nothing_to_compare(const Ui& ui) {
  const std::vector<SceneDecision>& all = ui.scene.decisions;
  if (all.size() < 2 || ui.state.a == ui.state.b) {
    ImGui::TextDisabled("choose two different decisions as A and B");
    return true;
  }
  const Decision& a = all[static_cast<std::size_t>(ui.state.a)].decision;
  const Decision& b = all[static_cast<std::size_t>(ui.state.b)].decision;
  if (a.tokens != b.tokens) {
    ImGui::TextDisabled("A covers %d tokens, B %d: their cells cannot be set side by side",
                        a.tokens, b.tokens);
    return true;
  }
  return false;
}

void overlap_text(const Agreement& compared) {
  const double cells = static_cast<double>(compared.total.both + compared.total.only_a +
                                           compared.total.only_b + compared.total.neither);
  const auto percent = [cells](std::int64_t count) {
    return 100 * static_cast<double>(count) / cells;
  };
  ImGui::TextUnformatted(
      fmt::format("both {:.1f} %   only A {:.1f} %   only B {:.1f} %   Jaccard {:.3f}",
                  percent(compared.total.both), percent(compared.total.only_a),
                  percent(compared.total.only_b), compared.total.jaccard())
          .c_str());
}

}  // namespace

void draw_agreement(Ui& ui) {
  if (nothing_to_compare(ui)) {
    return;
  }
  const SceneDecision& a = ui.scene.decisions[static_cast<std::size_t>(ui.state.a)];
  const SceneDecision& b = ui.scene.decisions[static_cast<std::size_t>(ui.state.b)];
  const Agreement& compared = ui.caches.agreement.get(
      fmt::format("{} {} {}", ui.state.a, ui.state.b, ui.scene.decisions.size()),
      [&] { return agreement(a.decision, b.decision); });
  overlap_text(compared);
  if (compared.budgets == BudgetMatch::different) {
    ImGui::TextColored(ImVec4(0.9f, 0.45f, 0.2f, 1), "%s", compared.remark().c_str());
  } else {
    ImGui::TextDisabled("%s", compared.remark().c_str());
  }
  ImGui::SameLine();
  const std::string worst =
      fmt::format("differ most: layer {}, KV head {}", ui.scene.layer_of(compared.worst_layer_row),
                  compared.worst_kv_head);
  if (ImGui::SmallButton(worst.c_str())) {
    ui.command = "worst_agreement";
  }
  std::vector<double> layer;
  std::vector<double> jaccard;
  for (std::size_t row = 0; row < compared.layer.size(); ++row) {
    layer.push_back(ui.scene.layer_of(static_cast<int>(row)));
    jaccard.push_back(compared.layer[row].jaccard());
  }
  if (ImPlot::BeginPlot("##agreement", ImVec2(-1, -1),
                        ImPlotFlags_NoLegend | ImPlotFlags_NoMenus | ImPlotFlags_NoMouseText)) {
    ImPlot::SetupAxes("layer", "Jaccard", ImPlotAxisFlags_AutoFit, 0);
    ImPlot::SetupAxisLimits(ImAxis_Y1, 0, 1, ImPlotCond_Always);
    ImPlot::PlotBars("##bars", layer.data(), jaccard.data(), static_cast<int>(layer.size()), 0.7);
    const double here = ui.scene.layer_of(ui.state.layer);
    ImPlot::PlotInfLines("##layer", &here, 1,
                         {ImPlotProp_LineColor, ImGui::GetStyleColorVec4(ImGuiCol_TextDisabled),
                          ImPlotProp_LineWeight, ui.px(1)});
    ImPlot::EndPlot();
  }
}

void draw_answers(Ui& ui) {
  if (!ui.scene.answers) {
    ImGui::TextDisabled("open answers.json of `kvscope generate -o DIR` too");
    return;
  }
  const Answers& answers = *ui.scene.answers;
  const ImVec4 faint = ImGui::GetStyleColorVec4(ImGuiCol_TextDisabled);
  ImGui::PushTextWrapPos(0);
  ImGui::TextColored(faint, "full cache:");
  ImGui::SameLine();
  ImGui::TextUnformatted(drawable(answers.full).c_str());
  for (const Answer& answer : answers.methods) {
    const bool same = answer.text == answers.full;
    ImGui::TextColored(faint, "%s",
                       fmt::format("{} {}, KL {:.3f} nats, {}", answer.method, answer.keep,
                                   answer.mean_divergence, same ? "same answer" : "another answer")
                           .c_str());
    const std::size_t shared = shared_beginning(answer.text, answers.full);
    const std::string head = drawable(answer.text.substr(0, shared));
    const std::string rest = drawable(answer.text.substr(shared));
    ImGui::Indent();
    if (!rest.empty() || head.empty()) {
      ImGui::TextUnformatted(head.c_str());
      ImGui::SameLine(0, 0);
      ImGui::TextColored(ImVec4(0.95f, 0.45f, 0.1f, 1), "%s",
                         rest.empty() ? "(nothing)" : rest.c_str());
    } else {
      ImGui::TextUnformatted(head.c_str());
    }
    ImGui::Unindent();
  }
  ImGui::PopTextWrapPos();
}

void draw_classes(Ui& ui) {
  if (ui.scene.decisions.empty()) {
    ImGui::TextDisabled("no decision is open");
    return;
  }
  const auto shares_of = [&](auto& memo, int index) -> const auto& {
    return memo.get(fmt::format("{}", index), [&] {
      return class_shares(ui.scene.tokens,
                          ui.scene.decisions[static_cast<std::size_t>(index)].decision);
    });
  };
  const auto& a = shares_of(ui.caches.classes_a, ui.state.a);
  const auto& b = shares_of(ui.caches.classes_b, ui.state.b);
  if (!ImGui::BeginTable("classes", 6,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(0, 1);
  for (const char* name :
       {"class", "of the text", "of A's slots", "A keeps", "of B's slots", "B keeps"}) {
    ImGui::TableSetupColumn(name);
  }
  ImGui::TableHeadersRow();
  const auto percent = [](double share) { return fmt::format("{:.1f} %", 100 * share); };
  for (std::size_t kind = 0; kind < a.size(); ++kind) {
    if (a[kind].tokens == 0) {
      continue;
    }
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    const std::string name = token_class_name(static_cast<TokenClass>(kind));
    if (ImGui::Selectable(name.c_str(), false, ImGuiSelectableFlags_SpanAllColumns)) {
      ui.wanted.query = "class:" + name;
    }
    for (const std::string& text :
         {percent(a[kind].of_text), percent(a[kind].of_slots), percent(a[kind].kept),
          percent(b[kind].of_slots), percent(b[kind].kept)}) {
      ImGui::TableNextColumn();
      ImGui::TextUnformatted(text.c_str());
    }
  }
  ImGui::EndTable();
}

}  // namespace kvscope::gui
