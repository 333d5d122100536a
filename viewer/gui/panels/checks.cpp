#include <fmt/format.h>

#include "viewer.h"

namespace kvscope::gui {

void draw_checks(Ui& ui) {
  bool any = false;
  for (std::size_t index = 0; index < ui.scene.decisions.size(); ++index) {
    const SceneDecision& entry = ui.scene.decisions[index];
    for (const Finding& finding : entry.findings) {
      any = true;
      const ImVec4 colour = finding.severity == Severity::error ? ImVec4(0.95f, 0.35f, 0.3f, 1)
                            : finding.severity == Severity::warning
                                ? ImVec4(0.9f, 0.65f, 0.2f, 1)
                                : ImVec4(0.45f, 0.65f, 0.85f, 1);
      ImGui::PushID(static_cast<int>(index) * 64 +
                    static_cast<int>(&finding - entry.findings.data()));
      ImGui::TextColored(colour, "%s", severity_name(finding.severity));
      ImGui::SameLine();
      ImGui::PushTextWrapPos(0);
      ImGui::TextUnformatted(fmt::format("{}: {}", entry.title, finding.text).c_str());
      ImGui::PopTextWrapPos();
      if (ImGui::IsItemClicked()) {
        ui.wanted.a = static_cast<int>(index);
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
      ImGui::PopID();
    }
  }
  if (!any) {
    ImGui::TextDisabled("nothing was found");
  }
}

}  // namespace kvscope::gui
