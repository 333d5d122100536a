#include "panels.h"

#include <imgui_internal.h>

#include <algorithm>
#include <cctype>

#include "kvscope/core/error.h"
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
  dock({"Methods", "Search", "What if", "Bookmarks", "Run"}, map.rest);
  const Split why = split(right.first, ImGuiDir_Up, 0.36f);
  const Split heads = split(why.rest, ImGuiDir_Up, 0.55f);
  dock({"Why"}, why.first);
  dock({"Layer × head"}, heads.first);
  dock({"Scores", "A against B", "Answers", "Next token", "Attention", "Token classes", "Checks"},
       heads.rest);
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
  dock({"Eigenvalues", "Cumulative energy", "QK and OV"}, upper_left.first);
  dock({"Effective rank by layer", "Cosine by layer", "Predicted cosine", "Before and after RoPE"},
       upper_left.rest);
  dock({"Asymmetry of K and V", "Modes of the cosine", "Persistence of modes",
        "Tokens against weights"},
       upper_right.first);
  dock({"Ranks by head", "Heads alike", "Claims"}, upper_right.rest);
}

/// A panel that shows one plot of the spectrum.
template <std::size_t Length>
struct PlotName {
  char text[Length];
  constexpr PlotName(const char (&name)[Length]) { std::copy_n(name, Length, text); }
};
template <PlotName name>
void draw_plot(Ui& ui) {
  draw_spectrum_plot(ui, name.text);
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
      {"What if", "explore", draw_what_if},
      {"Bookmarks", "explore", draw_bookmarks},
      {"Run", "explore", draw_run},
      {"Steps", "merge", draw_steps},
      {"Merges", "merge", draw_merges},
      {"Why", "explore compare merge", draw_inspector},
      {"Layer × head", "explore compare merge", draw_heads},
      {"Scores", "explore", draw_scores},
      {"A against B", "explore compare", draw_agreement},
      {"Answers", "explore compare", draw_answers},
      {"Attention", "explore", draw_attention},
      {"Next token", "explore", draw_next_token},
      {"Token classes", "explore compare", draw_classes},
      {"Checks", "explore", draw_checks},
      {"Eigenvalues", "weights", draw_plot<"eigenvalues">},
      {"Ranks by head", "weights", draw_plot<"head_map">},
      {"Effective rank by layer", "weights", draw_ranks},
      {"Cumulative energy", "weights", draw_plot<"energy">},
      {"Modes of the cosine", "weights", draw_plot<"contributions">},
      {"Asymmetry of K and V", "weights", draw_plot<"asymmetry">},
      {"Predicted cosine", "weights", draw_plot<"predictions">},
      {"Tokens against weights", "weights", draw_plot<"data_and_weights">},
      {"Persistence of modes", "weights", draw_plot<"persistence">},
      {"Cosine by layer", "weights", draw_plot<"adjacency">},
      {"QK and OV", "weights", draw_plot<"products">},
      {"Heads alike", "weights", draw_plot<"key_alignment">},
      {"Before and after RoPE", "weights", draw_plot<"rope">},
      {"Claims", "weights", draw_claims},
  };
  return list;
}

std::string panel_slug(const Panel& panel) {
  std::string slug;
  for (const char c : std::string_view(panel.title)) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0) {
      slug += static_cast<char>(std::tolower(byte));
    } else if (!slug.empty() && slug.back() != '-') {
      slug += '-';
    }
  }
  return slug;
}

std::vector<const Panel*> panels_named(const std::vector<std::string>& names) {
  std::vector<const Panel*> found;
  for (const std::string& name : names) {
    const std::string slug = panel_slug({name.c_str(), "", nullptr});
    bool known = false;
    for (const Panel& panel : panels()) {
      const bool spectral = std::string_view(panel.layout) == "weights";
      if (slug == panel_slug(panel) || slug == "all" || (slug == "spectra" && spectral)) {
        known = true;
        if (std::find(found.begin(), found.end(), &panel) == found.end()) {
          found.push_back(&panel);
        }
      }
    }
    if (!known) {
      std::string list = "spectra, all";
      for (const Panel& panel : panels()) {
        list += ", " + panel_slug(panel);
      }
      throw Error(ErrorCode::usage, "there is no panel '" + name + "'", "--panel",
                  "one of: " + list);
    }
  }
  return found;
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
