#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "fonts.h"
#include "kvscope/scene/palette.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

constexpr std::size_t most_choices = 8;

/// Text of a token id, as far as it occurs in the run; the file holds no vocabulary.
std::string text_of(Ui& ui, int id) {
  std::map<int, int>& places = ui.caches.token_places;
  if (places.empty()) {
    for (int token = 0; token < ui.scene.token_count(); ++token) {
      places.emplace(ui.scene.tokens.id[static_cast<std::size_t>(token)], token);
    }
  }
  const auto found = places.find(id);
  return found == places.end() ? fmt::format("#{}", id)
                               : drawable(shown_token(ui.scene.tokens.text(found->second)));
}

void choice_row(Ui& ui, const StepChoices& step, std::size_t choice, int taken) {
  ImGui::TableNextRow();
  ImGui::TableNextColumn();
  const int id = step.token[choice];
  const double probability = std::exp(static_cast<double>(step.log_probability[choice]));
  ImGui::TextUnformatted(fmt::format("{}{}", id == taken ? "▸ " : "", text_of(ui, id)).c_str());
  ImGui::TableNextColumn();
  ImGui::TextUnformatted(fmt::format("{:.3f}", probability).c_str());
  ImGui::TableNextColumn();
  const ImVec2 at = ImGui::GetCursorScreenPos();
  const float height = ImGui::GetTextLineHeight();
  ImGui::GetWindowDrawList()->AddRectFilled(
      ImVec2(at.x, at.y + height * 0.2f),
      ImVec2(at.x + ui.px(220) * static_cast<float>(probability), at.y + height * 0.8f),
      to_imgui(fate_colour(id == taken ? 'K' : 'P', ui.dark)));
  ImGui::Dummy(ImVec2(ui.px(220), height));
}

}  // namespace

void draw_next_token(Ui& ui) {
  if (ui.scene.choices.empty()) {
    ImGui::TextDisabled("the capture holds no next-token probabilities: capture --new-tokens N");
    return;
  }
  // A step reads one generated token and predicts the next: that of the selected token.
  const int prompt = ui.scene.tokens.prompt_tokens;
  const auto last = static_cast<int>(ui.scene.choices.size()) - 1;
  int index = std::clamp(ui.state.token - prompt - 1, 0, last);
  ImGui::SetNextItemWidth(ui.px(180));
  if (ImGui::SliderInt("##step", &index, 0, last, "decode step %d")) {
    ui.wanted.token = std::min(prompt + index + 1, ui.scene.token_count() - 1);
  }
  const StepChoices& step = ui.scene.choices[static_cast<std::size_t>(index)];
  const int place = prompt + index + 1;
  const int taken =
      place < ui.scene.token_count() ? ui.scene.tokens.id[static_cast<std::size_t>(place)] : -1;
  ImGui::SameLine();
  ImGui::TextDisabled("full cache; the run took %s", text_of(ui, taken).c_str());
  if (!ImGui::BeginTable("choices", 3, ImGuiTableFlags_SizingFixedFit)) {
    return;
  }
  for (std::size_t choice = 0; choice < std::min(most_choices, step.token.size()); ++choice) {
    choice_row(ui, step, choice, taken);
  }
  ImGui::EndTable();
}

}  // namespace kvscope::gui
