#include "panels.h"

#include <imgui_internal.h>

#include "viewer.h"

namespace kvscope::gui {
namespace {

struct Split {
  ImGuiID first;
  ImGuiID rest;
};

Split split(ImGuiID node, ImGuiDir side, float share) {
  Split result{};
  ImGui::DockBuilderSplitNode(node, side, share, &result.first, &result.rest);
  return result;
}

/// Docks panels as tabs of one node, the first in front.
void dock(std::initializer_list<const char*> titles, ImGuiID node) {
  for (const char* title : titles) {
    ImGui::DockBuilderDockWindow(title, node);
  }
  if (ImGuiDockNode* place = ImGui::DockBuilderGetNode(node)) {
    place->SetLocalFlags(place->LocalFlags | ImGuiDockNodeFlags_NoWindowMenuButton);
    // What ImGui calls the tab of a window; the windows themselves may not exist yet.
    place->SelectedTabId = ImHashStr("#TAB", 0, ImHashStr(*titles.begin()));
  }
}

void dock_explore(ImGuiID root) {
  const Split right = split(root, ImGuiDir_Right, 0.37f);
  const Split strip = split(right.rest, ImGuiDir_Up, 0.37f);
  const Split map = split(strip.rest, ImGuiDir_Up, 0.54f);
  dock({"Tokens"}, strip.first);
  dock({"Layer × token"}, map.first);
  dock({"Methods", "Search", "Bookmarks", "Run"}, map.rest);
  const Split why = split(right.first, ImGuiDir_Up, 0.36f);
  const Split heads = split(why.rest, ImGuiDir_Up, 0.55f);
  dock({"Why"}, why.first);
  dock({"Layer × head"}, heads.first);
  dock({"Scores", "A against B", "Answers", "Token classes", "Checks"}, heads.rest);
}

void dock_compare(ImGuiID root) {
  const Split right = split(root, ImGuiDir_Right, 0.37f);
  const Split top = split(right.rest, ImGuiDir_Up, 0.34f);
  const Split middle = split(top.rest, ImGuiDir_Up, 0.5f);
  dock({"Layer × token"}, top.first);
  dock({"Layer × token: B"}, middle.first);
  dock({"A against B: difference"}, middle.rest);
  const Split agreement = split(right.first, ImGuiDir_Up, 0.34f);
  const Split heads = split(agreement.rest, ImGuiDir_Up, 0.5f);
  dock({"A against B", "Answers", "Token classes"}, agreement.first);
  dock({"Layer × head"}, heads.first);
  dock({"Why"}, heads.rest);
}

void dock_merge(ImGuiID root) {
  const Split right = split(root, ImGuiDir_Right, 0.42f);
  const Split steps = split(right.rest, ImGuiDir_Up, 0.34f);
  const Split strip = split(steps.rest, ImGuiDir_Up, 0.5f);
  dock({"Steps"}, steps.first);
  dock({"Tokens"}, strip.first);
  dock({"Layer × token"}, strip.rest);
  const Split merges = split(right.first, ImGuiDir_Up, 0.62f);
  dock({"Merges"}, merges.first);
  dock({"Why", "Layer × head"}, merges.rest);
}

void dock_weights(ImGuiID root) {
  const Split left = split(root, ImGuiDir_Left, 0.5f);
  const Split upper_left = split(left.first, ImGuiDir_Up, 0.5f);
  const Split upper_right = split(left.rest, ImGuiDir_Up, 0.5f);
  dock({"Eigenvalues"}, upper_left.first);
  dock({"Effective rank by layer"}, upper_left.rest);
  dock({"Asymmetry of K and V"}, upper_right.first);
  dock({"Effective rank by head"}, upper_right.rest);
}

}  // namespace

const std::vector<Panel>& panels() {
  static const std::vector<Panel> list = {
      {"Tokens", "explore merge", draw_strip},
      {"Layer × token", "explore compare merge", draw_fate_map_a},
      {"Layer × token: B", "compare", draw_fate_map_b},
      {"A against B: difference", "compare", draw_difference},
      {"Methods", "explore", draw_methods},
      {"Search", "explore", draw_search},
      {"Bookmarks", "explore", draw_bookmarks},
      {"Run", "explore", draw_run},
      {"Steps", "merge", draw_steps},
      {"Merges", "merge", draw_merges},
      {"Why", "explore compare merge", draw_inspector},
      {"Layer × head", "explore compare merge", draw_heads},
      {"Scores", "explore", draw_scores},
      {"A against B", "explore compare", draw_agreement},
      {"Answers", "explore compare", draw_answers},
      {"Token classes", "explore compare", draw_classes},
      {"Checks", "explore", draw_checks},
      {"Eigenvalues", "weights", draw_eigenvalues},
      {"Effective rank by layer", "weights", draw_ranks},
      {"Asymmetry of K and V", "weights", draw_asymmetry},
      {"Effective rank by head", "weights", draw_head_grid},
  };
  return list;
}

void dock_panels(ImGuiID root, const std::string& layout, ImVec2 size) {
  ImGui::DockBuilderRemoveNode(root);
  ImGui::DockBuilderAddNode(root, ImGuiDockNodeFlags_DockSpace);
  ImGui::DockBuilderSetNodeSize(root, size);
  if (layout == "compare") {
    dock_compare(root);
  } else if (layout == "merge") {
    dock_merge(root);
  } else if (layout == "weights") {
    dock_weights(root);
  } else {
    dock_explore(root);
  }
  ImGui::DockBuilderFinish(root);
}

}  // namespace kvscope::gui
