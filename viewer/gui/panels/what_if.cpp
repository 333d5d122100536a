#include "what_if.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kvscope/scene/parameters.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

bool edit(const char* id, float width, std::string& text) {
  char buffer[512];
  const std::size_t length = std::min(text.size(), sizeof buffer - 1);
  std::memcpy(buffer, text.data(), length);
  buffer[length] = '\0';
  ImGui::SetNextItemWidth(width);
  const bool changed = ImGui::InputText(id, buffer, sizeof buffer);
  if (changed) {
    text = buffer;
  }
  return changed;
}

/// Each parameter of A's method, from its descriptor; an edit changes the method's text.
void parameters(Ui& ui, const Decision& decision) {
  const std::vector<MethodParameter> list = method_parameters(decision);
  if (list.empty() ||
      !ImGui::BeginTable("parameters", 4,
                         ImGuiTableFlags_RowBg | ImGuiTableFlags_ScrollY |
                             ImGuiTableFlags_BordersInnerV | ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  ImGui::TableSetupScrollFreeze(0, 1);
  for (const char* name : {"piece", "parameter", "value in A"}) {
    ImGui::TableSetupColumn(name);
  }
  ImGui::TableSetupColumn("meaning", ImGuiTableColumnFlags_WidthStretch);
  ImGui::TableHeadersRow();
  for (std::size_t row = 0; row < list.size(); ++row) {
    const MethodParameter& parameter = list[row];
    ImGui::TableNextRow();
    ImGui::TableNextColumn();
    ImGui::TextUnformatted(parameter.piece_name.c_str());
    ImGui::TableNextColumn();
    ImGui::TextUnformatted(parameter.name.c_str());
    ImGui::TableNextColumn();
    ImGui::PushID(static_cast<int>(row));
    std::string& value = ui.caches.trial_values[fmt::format("{} {}", ui.state.a, row)];
    value = value.empty() ? parameter.value : value;
    if (edit("##value", ui.px(90), value) && !value.empty()) {
      ui.what_if.method = with_parameter(ui.what_if.method, parameter.piece, parameter.name, value);
    }
    ImGui::PopID();
    ImGui::TableNextColumn();
    ImGui::TextDisabled("%s", fmt::format("{} ({}{}{})", parameter.help, parameter.range,
                                          parameter.unit.empty() ? "" : " ", parameter.unit)
                                  .c_str());
  }
  ImGui::EndTable();
}

}  // namespace

void draw_what_if(Ui& ui) {
  if (ui.scene.decisions.empty()) {
    ImGui::TextDisabled("no decision is open");
    return;
  }
  const Decision& a = ui.scene.decisions[static_cast<std::size_t>(ui.state.a)].decision;
  if (ui.caches.trial_of != ui.state.a || ui.what_if.method.empty()) {
    ui.caches.trial_of = ui.state.a;
    ui.what_if.method = a.method;
    ui.what_if.keep = a.keep;
  }
  edit("method", ui.px(330), ui.what_if.method);
  ImGui::SameLine();
  edit("keep", ui.px(70), ui.what_if.keep);
  ImGui::SameLine();
  if (ui.what_if.running_seconds >= 0) {
    ui.what_if.cancel = ImGui::Button("cancel");
    ImGui::SameLine();
    ImGui::TextDisabled("deciding, %.0f s", ui.what_if.running_seconds);
  } else {
    ui.what_if.start = ImGui::Button("decide") || ui.what_if.start;
  }
  if (!ui.what_if.message.empty()) {
    ImGui::TextWrapped("%s", ui.what_if.message.c_str());
  } else {
    ImGui::TextDisabled("a trial becomes A; the recorded decision stays, as B");
  }
  parameters(ui, a);
}

}  // namespace kvscope::gui
