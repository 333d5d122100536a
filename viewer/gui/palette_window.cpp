#include <algorithm>
#include <cctype>

#include "viewer.h"

namespace kvscope::gui {
namespace {

std::string lowered(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// Commands whose title holds the text; the one that is called just so comes first.
std::vector<const Command*> matching(const std::string& needle) {
  std::vector<const Command*> found;
  for (const Command& entry : commands()) {
    const std::string title = lowered(entry.title);
    if (title == needle || entry.id == needle) {
      found.insert(found.begin(), &entry);
    } else if (title.find(needle) != std::string::npos) {
      found.push_back(&entry);
    }
  }
  return found;
}

}  // namespace

void Viewer::palette() {
  if (palette_open_) {
    ImGui::OpenPopup("Commands");
    palette_open_ = false;
    palette_text_[0] = '\0';
  }
  const float em = ImGui::GetFontSize();
  ImGui::SetNextWindowSize(ImVec2(34 * em, 28 * em));
  if (!ImGui::BeginPopup("Commands")) {
    return;
  }
  if (ImGui::IsWindowAppearing()) {
    ImGui::SetKeyboardFocusHere();
  }
  ImGui::SetNextItemWidth(-1);
  const bool enter =
      ImGui::InputTextWithHint("##search", "type to search", palette_text_, sizeof palette_text_,
                               ImGuiInputTextFlags_EnterReturnsTrue);
  bool first = true;
  for (const Command* match : matching(lowered(palette_text_))) {
    const Command& entry = *match;
    const bool chosen = ImGui::Selectable(entry.title.c_str());
    ImGui::SameLine(26 * em);
    ImGui::TextDisabled("%s", entry.key.c_str());
    if (chosen || (enter && first)) {
      command_ = entry.id;
      ImGui::CloseCurrentPopup();
      break;
    }
    first = false;
  }
  ImGui::EndPopup();
}

void Viewer::help() {
  if (help_open_) {
    ImGui::OpenPopup("Keys");
    help_open_ = false;
  }
  const float em = ImGui::GetFontSize();
  ImGui::SetNextWindowSize(ImVec2(34 * em, 0));
  if (!ImGui::BeginPopup("Keys")) {
    return;
  }
  ImGui::TextWrapped(
      "Wheel zooms a map, dragging moves it, a click selects. Escape closes this list.");
  ImGui::Separator();
  if (ImGui::BeginTable("keys", 2, ImGuiTableFlags_SizingFixedFit | ImGuiTableFlags_RowBg)) {
    for (const Command& entry : commands()) {
      if (entry.key.empty()) {
        continue;
      }
      ImGui::TableNextRow();
      ImGui::TableNextColumn();
      ImGui::TextUnformatted(entry.key.c_str());
      ImGui::TableNextColumn();
      ImGui::TextUnformatted(entry.title.c_str());
    }
    ImGui::EndTable();
  }
  ImGui::EndPopup();
}

}  // namespace kvscope::gui
