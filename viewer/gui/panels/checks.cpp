#include <fmt/format.h>

#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

ImVec4 severity_colour(Severity severity, bool dark) {
  switch (severity) {
    case Severity::error:
      return dark ? ImVec4(0.98f, 0.45f, 0.4f, 1) : ImVec4(0.75f, 0.1f, 0.1f, 1);
    case Severity::warning:
      return dark ? ImVec4(0.95f, 0.7f, 0.25f, 1) : ImVec4(0.65f, 0.38f, 0, 1);
    default:
      return dark ? ImVec4(0.5f, 0.72f, 0.92f, 1) : ImVec4(0.1f, 0.35f, 0.6f, 1);
  }
}

void jump(Ui& ui, int decision, const Finding& finding) {
  ui.wanted.a = decision;
  for (int row = 0; row < ui.scene.layers(); ++row) {
    if (ui.scene.layer_of(row) == finding.layer) {
      ui.wanted.layer = row;
    }
  }
  ui.wanted.token = finding.token >= 0 ? finding.token : ui.state.token;
  if (finding.kv_head >= 0) {
    ui.wanted.kv_heads = {finding.kv_head};
  }
}

}  // namespace

void draw_checks(Ui& ui) {
  bool any = false;
  for (std::size_t index = 0; index < ui.scene.decisions.size(); ++index) {
    const SceneDecision& entry = ui.scene.decisions[index];
    for (std::size_t at = 0; at < entry.findings.size(); ++at) {
      const Finding& finding = entry.findings[at];
      any = true;
      ImGui::PushID(static_cast<int>(index * 64 + at));
      ImGui::TextColored(severity_colour(finding.severity, ui.dark), "%s",
                         severity_name(finding.severity));
      ImGui::SameLine();
      ImGui::PushTextWrapPos(0);
      ImGui::TextUnformatted(fmt::format("{}: {}", entry.title, finding.text).c_str());
      ImGui::PopTextWrapPos();
      if (ImGui::IsItemHovered()) {
        ImGui::SetTooltip("check '%s'; a click goes there", finding.id.c_str());
      }
      if (ImGui::IsItemClicked()) {
        jump(ui, static_cast<int>(index), finding);
      }
      ImGui::PopID();
    }
  }
  if (!any) {
    ImGui::TextDisabled("nothing was found in %d decisions",
                        static_cast<int>(ui.scene.decisions.size()));
  }
}

}  // namespace kvscope::gui
