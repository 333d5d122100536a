#include <fmt/format.h>

#include "viewer.h"

namespace kvscope::gui {
namespace {

void choose_decision(const char* label, const Scene& scene, int& index) {
  const std::string current =
      scene.decisions.empty() ? "none" : scene.decisions[static_cast<std::size_t>(index)].title;
  ImGui::SetNextItemWidth(250);
  if (ImGui::BeginCombo(label, current.c_str())) {
    for (std::size_t item = 0; item < scene.decisions.size(); ++item) {
      if (ImGui::Selectable(scene.decisions[item].title.c_str(), static_cast<int>(item) == index)) {
        index = static_cast<int>(item);
      }
    }
    ImGui::EndCombo();
  }
  ImGui::SameLine();
}

void choose_heads(const Scene& scene, std::vector<int>& heads) {
  const std::string current = heads.empty() ? "all" : head_list(heads);
  ImGui::SetNextItemWidth(110);
  if (ImGui::BeginCombo("KV heads", current.c_str())) {
    if (ImGui::Selectable("all", heads.empty())) {
      heads.clear();
    }
    for (int head = 0; head < scene.kv_heads(); ++head) {
      if (ImGui::Selectable(fmt::format("head {}", head).c_str(),
                            heads == std::vector<int>{head})) {
        heads = {head};
      }
    }
    ImGui::EndCombo();
  }
  ImGui::SameLine();
}

}  // namespace

void draw_selection(Ui& ui) {
  choose_decision("A", ui.scene, ui.wanted.a);
  choose_decision("B", ui.scene, ui.wanted.b);
  ImGui::SetNextItemWidth(120);
  if (ui.scene.layers() > 0) {
    ImGui::SliderInt("layer", &ui.wanted.layer, 0, ui.scene.layers() - 1);
    ImGui::SameLine();
    choose_heads(ui.scene, ui.wanted.kv_heads);
    ImGui::SetNextItemWidth(120);
    ImGui::InputInt("token", &ui.wanted.token);
    ImGui::SameLine();
  }
  const char* layouts[] = {"explore", "compare", "weights"};
  for (const char* layout : layouts) {
    if (ImGui::RadioButton(layout, ui.state.layout == layout)) {
      ui.wanted.layout = layout;
    }
    ImGui::SameLine();
  }
  ImGui::NewLine();
}

}  // namespace kvscope::gui
