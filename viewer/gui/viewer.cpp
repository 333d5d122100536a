#include "viewer.h"

#include <fmt/format.h>
#include <imgui_internal.h>

#include <algorithm>
#include <cctype>

#include "fonts.h"
#include "kvscope/core/error.h"
#include "kvscope/scene/commands.h"
#include "kvscope/scene/palette.h"

namespace kvscope::gui {
namespace {

constexpr std::size_t undo_steps = 256;
constexpr float header_height = 62;

const std::vector<Panel>& panels() {
  static const std::vector<Panel> list = {
      {"Tokens", "explore", draw_strip},
      {"Layer x token", "explore compare", draw_fate_map_a},
      {"Layer x token: B", "compare", draw_fate_map_b},
      {"A against B: difference", "compare", draw_difference},
      {"Layer x head", "explore compare", draw_heads},
      {"Why", "explore compare", draw_inspector},
      {"A against B", "explore compare", draw_agreement},
      {"Checks", "explore", draw_checks},
      {"Methods", "explore", draw_summary},
      {"Eigenvalues", "weights", draw_eigenvalues},
      {"Effective rank by layer", "weights", draw_ranks},
      {"Asymmetry of K and V", "weights", draw_asymmetry},
      {"Effective rank by head", "weights", draw_head_grid},
  };
  return list;
}

/// "Ctrl+2", "X", "Right" as an ImGui key chord; 0 for none.
ImGuiKeyChord chord_of(const std::string& text) {
  std::string key = text;
  ImGuiKeyChord chord = 0;
  if (key.starts_with("Ctrl+")) {
    chord = ImGuiMod_Ctrl;
    key = key.substr(5);
  }
  if (key.size() == 1 && std::isalpha(static_cast<unsigned char>(key[0])) != 0) {
    return chord | (ImGuiKey_A + (key[0] - 'A'));
  }
  if (key.size() == 1 && std::isdigit(static_cast<unsigned char>(key[0])) != 0) {
    return chord | (ImGuiKey_0 + (key[0] - '0'));
  }
  const std::pair<const char*, ImGuiKey> named[] = {
      {"Left", ImGuiKey_LeftArrow}, {"Right", ImGuiKey_RightArrow}, {"Up", ImGuiKey_UpArrow},
      {"Down", ImGuiKey_DownArrow}, {"+", ImGuiKey_KeypadAdd},      {"-", ImGuiKey_Minus}};
  for (const auto& [name, imgui_key] : named) {
    if (key == name) {
      return chord | imgui_key;
    }
  }
  return 0;
}

struct Split {
  ImGuiID first;
  ImGuiID rest;
};

Split split(ImGuiID node, ImGuiDir side, float share) {
  Split result{};
  ImGui::DockBuilderSplitNode(node, side, share, &result.first, &result.rest);
  return result;
}

void dock_explore(ImGuiID root) {
  const Split right = split(root, ImGuiDir_Right, 0.34f);
  const Split strip = split(right.rest, ImGuiDir_Up, 0.44f);
  const Split checks = split(strip.rest, ImGuiDir_Down, 0.34f);
  const Split why = split(right.first, ImGuiDir_Up, 0.52f);
  ImGui::DockBuilderDockWindow("Tokens", strip.first);
  ImGui::DockBuilderDockWindow("Layer x token", checks.rest);
  ImGui::DockBuilderDockWindow("Methods", checks.first);
  ImGui::DockBuilderDockWindow("Why", why.first);
  const Split heads = split(why.rest, ImGuiDir_Up, 0.56f);
  ImGui::DockBuilderDockWindow("Layer x head", heads.first);
  ImGui::DockBuilderDockWindow("A against B", heads.rest);
  ImGui::DockBuilderDockWindow("Checks", heads.rest);
}

void dock_compare(ImGuiID root) {
  const Split right = split(root, ImGuiDir_Right, 0.34f);
  const Split top = split(right.rest, ImGuiDir_Up, 0.36f);
  const Split middle = split(top.rest, ImGuiDir_Up, 0.5f);
  ImGui::DockBuilderDockWindow("Layer x token", top.first);
  ImGui::DockBuilderDockWindow("Layer x token: B", middle.first);
  ImGui::DockBuilderDockWindow("A against B: difference", middle.rest);
  const Split agreement = split(right.first, ImGuiDir_Up, 0.3f);
  const Split heads = split(agreement.rest, ImGuiDir_Up, 0.45f);
  ImGui::DockBuilderDockWindow("A against B", agreement.first);
  ImGui::DockBuilderDockWindow("Layer x head", heads.first);
  ImGui::DockBuilderDockWindow("Why", heads.rest);
}

void dock_weights(ImGuiID root) {
  const Split left = split(root, ImGuiDir_Left, 0.5f);
  const Split upper_left = split(left.first, ImGuiDir_Up, 0.5f);
  const Split upper_right = split(left.rest, ImGuiDir_Up, 0.5f);
  ImGui::DockBuilderDockWindow("Eigenvalues", upper_left.first);
  ImGui::DockBuilderDockWindow("Effective rank by layer", upper_left.rest);
  ImGui::DockBuilderDockWindow("Asymmetry of K and V", upper_right.first);
  ImGui::DockBuilderDockWindow("Effective rank by head", upper_right.rest);
}

}  // namespace

ImU32 to_imgui(Colour colour, float alpha) {
  return IM_COL32(colour.r, colour.g, colour.b, static_cast<int>(alpha * 255));
}

Viewer::Viewer(Scene scene, State state, Backend& backend)
    : scene_(std::move(scene)),
      state_(clamped(std::move(state), scene_.limits())),
      backend_(backend) {}

void Viewer::set_state(const State& state) {
  const State next = clamped(state, scene_.limits());
  if (next == state_) {
    return;
  }
  history_.push_back(state_);
  if (history_.size() > undo_steps) {
    history_.erase(history_.begin());
  }
  state_ = next;
}

void Viewer::run(const std::string& command) {
  set_state(run_command(command, scene_, state_));
}

void Viewer::undo() {
  if (!history_.empty()) {
    state_ = history_.back();
    history_.pop_back();
  }
}

void Viewer::keys() {
  if (ImGui::GetIO().WantTextInput) {
    return;
  }
  if (ImGui::IsKeyChordPressed(ImGuiMod_Ctrl | ImGuiKey_K)) {
    palette_open_ = true;
  }
  if (ImGui::IsKeyChordPressed(ImGuiMod_Ctrl | ImGuiKey_Z)) {
    undo();
  }
  if (ImGui::IsKeyChordPressed(ImGuiMod_Ctrl | ImGuiKey_C)) {
    ImGui::SetClipboardText(to_link(state_).c_str());
    message_ = "link copied";
  }
  for (const Command& command : commands()) {
    const ImGuiKeyChord chord = chord_of(command.key);
    if (chord != 0 && ImGui::IsKeyChordPressed(chord)) {
      run(command.id);
    }
  }
}

void Viewer::palette() {
  if (palette_open_) {
    ImGui::OpenPopup("Commands");
    palette_open_ = false;
    palette_text_[0] = '\0';
  }
  ImGui::SetNextWindowSize(ImVec2(460, 420));
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
  std::string needle = palette_text_;
  std::transform(needle.begin(), needle.end(), needle.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  bool first = true;
  for (const Command& command : commands()) {
    std::string title = command.title;
    std::transform(title.begin(), title.end(), title.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (title.find(needle) == std::string::npos) {
      continue;
    }
    const bool chosen = ImGui::Selectable(command.title.c_str());
    ImGui::SameLine(360);
    ImGui::TextDisabled("%s", command.key.c_str());
    if (chosen || (enter && first)) {
      run(command.id);
      ImGui::CloseCurrentPopup();
      break;
    }
    first = false;
  }
  ImGui::EndPopup();
}

void Viewer::header() {
  const ImGuiViewport* viewport = ImGui::GetMainViewport();
  ImGui::SetNextWindowPos(viewport->WorkPos);
  ImGui::SetNextWindowSize(ImVec2(viewport->WorkSize.x, header_height));
  ImGui::Begin("kvscope", nullptr,
               ImGuiWindowFlags_NoDecoration | ImGuiWindowFlags_NoMove |
                   ImGuiWindowFlags_NoDocking | ImGuiWindowFlags_NoSavedSettings |
                   ImGuiWindowFlags_NoBringToFrontOnFocus);
  const std::string model = !scene_.capture.model_name.empty() ? scene_.capture.model_name
                            : scene_.spectrum                  ? scene_.spectrum->model_name
                                                               : std::string();
  ImGui::TextUnformatted(fmt::format("{}   {} layers, {} query heads, {} KV heads   {} tokens",
                                     model, scene_.capture.shape.layers,
                                     scene_.capture.shape.query_heads, scene_.kv_heads(),
                                     scene_.token_count())
                             .c_str());
  ImGui::SameLine(viewport->WorkSize.x - 330);
  ImGui::TextDisabled(
      "%s", message_.empty() ? "Ctrl+K commands   Ctrl+C copies a link" : message_.c_str());
  State wanted = state_;
  Ui ui{scene_, state_, wanted, backend_, state_.theme != "light"};
  draw_selection(ui);
  ImGui::End();
  set_state(wanted);
}

void Viewer::dock() {
  const ImGuiViewport* viewport = ImGui::GetMainViewport();
  const ImGuiID root = ImGui::GetID("kvscope.dock");
  ImGui::SetNextWindowPos(ImVec2(viewport->WorkPos.x, viewport->WorkPos.y + header_height));
  const ImVec2 size(viewport->WorkSize.x, viewport->WorkSize.y - header_height);
  ImGui::SetNextWindowSize(size);
  ImGui::PushStyleVar(ImGuiStyleVar_WindowPadding, ImVec2(0, 0));
  ImGui::Begin("##dock", nullptr,
               ImGuiWindowFlags_NoDecoration | ImGuiWindowFlags_NoMove |
                   ImGuiWindowFlags_NoDocking | ImGuiWindowFlags_NoSavedSettings |
                   ImGuiWindowFlags_NoBringToFrontOnFocus | ImGuiWindowFlags_NoNavFocus);
  ImGui::PopStyleVar();
  if (docked_layout_ != state_.layout) {
    docked_layout_ = state_.layout;
    ImGui::DockBuilderRemoveNode(root);
    ImGui::DockBuilderAddNode(root, ImGuiDockNodeFlags_DockSpace);
    ImGui::DockBuilderSetNodeSize(root, size);
    if (state_.layout == "compare") {
      dock_compare(root);
    } else if (state_.layout == "weights") {
      dock_weights(root);
    } else {
      dock_explore(root);
    }
    ImGui::DockBuilderFinish(root);
  }
  ImGui::DockSpace(root);
  ImGui::End();
}

void Viewer::frame() {
  if (theme_ != state_.theme) {
    theme_ = state_.theme;
    apply_theme(theme_);
  }
  keys();
  header();
  dock();
  State wanted = state_;
  Ui ui{scene_, state_, wanted, backend_, state_.theme != "light"};
  for (const Panel& panel : panels()) {
    if (panel.layout.find(state_.layout) == std::string::npos) {
      continue;
    }
    if (ImGui::Begin(panel.title, nullptr, ImGuiWindowFlags_NoCollapse)) {
      panel.draw(ui);
    }
    ImGui::End();
  }
  set_state(wanted);
  palette();
}

}  // namespace kvscope::gui
