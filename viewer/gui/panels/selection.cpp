#include <fmt/format.h>

#include "kvscope/scene/texts.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

/// Continues the line if an item of `width` still fits, else begins a new one.
void place(float width) {
  const float end = ImGui::GetItemRectMax().x + ImGui::GetStyle().ItemSpacing.x + width;
  if (end < ImGui::GetWindowPos().x + ImGui::GetWindowWidth() - ImGui::GetStyle().WindowPadding.x) {
    ImGui::SameLine();
  }
}

void choose_decision(const Ui& ui, const char* label, float width, int& index) {
  const Scene& scene = ui.scene;
  const std::string current =
      scene.decisions.empty() ? "none" : scene.decisions[static_cast<std::size_t>(index)].title;
  ImGui::SetNextItemWidth(width);
  if (ImGui::BeginCombo(fmt::format("##{}", label).c_str(),
                        fmt::format("{}: {}", label, current).c_str())) {
    for (std::size_t item = 0; item < scene.decisions.size(); ++item) {
      if (ImGui::Selectable(scene.decisions[item].title.c_str(), static_cast<int>(item) == index)) {
        index = static_cast<int>(item);
      }
    }
    ImGui::EndCombo();
  }
}

void choose_heads(const Ui& ui, std::vector<int>& heads) {
  const std::string current = heads.empty() ? "all KV heads" : "KV " + head_list(heads);
  ImGui::SetNextItemWidth(ui.px(130));
  if (ImGui::BeginCombo("##heads", current.c_str())) {
    if (ImGui::Selectable("all", heads.empty())) {
      heads.clear();
    }
    for (int head = 0; head < ui.scene.kv_heads(); ++head) {
      if (ImGui::Selectable(fmt::format("head {}", head).c_str(),
                            heads == std::vector<int>{head})) {
        heads = {head};
      }
    }
    ImGui::EndCombo();
  }
}

/// A number with a unit before it, moved by dragging, typing (double click) or the arrow keys.
void choose_number(const Ui& ui, const char* id, const std::string& format, int most, int& value) {
  ImGui::SetNextItemWidth(ui.px(112));
  ImGui::DragInt(id, &value, 0.2f, 0, most, format.c_str(), ImGuiSliderFlags_AlwaysClamp);
}

void layouts(std::string& layout) {
  constexpr std::pair<const char*, const char*> all[] = {
      {"explore", "Explore"}, {"compare", "Compare"}, {"merge", "Steps"}, {"weights", "Weights"}};
  for (const auto& [id, title] : all) {
    const bool shown = layout == id;
    place(ImGui::CalcTextSize(title).x + 2 * ImGui::GetStyle().FramePadding.x);
    ImGui::PushStyleColor(ImGuiCol_Button,
                          ImGui::GetStyleColorVec4(shown ? ImGuiCol_Header : ImGuiCol_FrameBg));
    if (ImGui::Button(title)) {
      layout = id;
    }
    ImGui::PopStyleColor();
  }
}

}  // namespace

void draw_selection(Ui& ui) {
  const float combo = ui.px(245);
  if (ui.scene.layers() > 0) {
    choose_decision(ui, "A", combo, ui.wanted.a);
    place(combo);
    choose_decision(ui, "B", combo, ui.wanted.b);
    place(ui.px(112));
    choose_number(ui, "##layer", fmt::format("layer {}", ui.scene.layer_of(ui.state.layer)),
                  ui.scene.layers() - 1, ui.wanted.layer);
    place(ui.px(130));
    choose_heads(ui, ui.wanted.kv_heads);
    place(ui.px(112));
    choose_number(ui, "##token", "token %d", ui.scene.token_count() - 1, ui.wanted.token);
    if (ui.state.seen >= 0) {
      const std::string when =
          fmt::format("{} {} tokens", ui.state.before ? "before the cut at" : "after",
                      grouped_digits(ui.state.seen));
      place(ImGui::CalcTextSize(when.c_str()).x);
      ImGui::AlignTextToFramePadding();
      ImGui::TextUnformatted(when.c_str());
    }
    place(ui.px(1));
    ImGui::Dummy(ImVec2(ui.px(1), ui.px(1)));
  }
  layouts(ui.wanted.layout);
}

}  // namespace kvscope::gui
