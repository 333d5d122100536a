#include "kvscope/scene/fate_map.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvscope/scene/palette.h"
#include "kvscope/scene/token_strip.h"
#include "map_plot.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

struct Mode {
  const char* id;
  const char* title;
};
constexpr Mode modes[] = {{"share", "share of heads that keep"},
                          {"fate", "fates by layer and head"},
                          {"removed", "time of removal"},
                          {"score", "rank of the score"}};

void choose_mode(Ui& ui, const char* slot) {
  const auto current = std::find_if(std::begin(modes), std::end(modes),
                                    [&](const Mode& mode) { return ui.state.map == mode.id; });
  ImGui::SetNextItemWidth(ui.px(205));
  if (ImGui::BeginCombo(fmt::format("##map{}", slot).c_str(), current->title)) {
    for (const Mode& mode : modes) {
      if (ImGui::Selectable(mode.title, ui.state.map == mode.id)) {
        ui.wanted.map = mode.id;
      }
    }
    ImGui::EndCombo();
  }
  ImGui::SameLine();
}

void scale_legend(const Ui& ui, const char* low, const char* high) {
  ImDrawList* draw = ImGui::GetWindowDrawList();
  ImGui::AlignTextToFramePadding();
  ImGui::TextDisabled("%s", low);
  ImGui::SameLine(0, ui.px(6));
  const ImVec2 at = ImGui::GetCursorScreenPos();
  constexpr int steps = 32;
  const float width = ui.px(3);
  const float top = at.y + ImGui::GetFrameHeight() * 0.25f;
  for (int step = 0; step < steps; ++step) {
    const float x = at.x + static_cast<float>(step) * width;
    draw->AddRectFilled(ImVec2(x, top), ImVec2(x + width, top + ImGui::GetFrameHeight() * 0.5f),
                        to_imgui(share_colour((step + 0.5) / steps, ui.dark)));
  }
  ImGui::Dummy(ImVec2(steps * width, ui.px(12)));
  ImGui::SameLine(0, ui.px(6));
  ImGui::TextDisabled("%s", high);
  ImGui::SameLine(0, ui.px(14));
}

void legend(const Ui& ui) {
  if (ui.state.map == "share") {
    scale_legend(ui, "none", "all");
  } else if (ui.state.map == "removed") {
    scale_legend(ui, "early", "never");
  } else if (ui.state.map == "score") {
    scale_legend(ui, "low", "high");
  }
}

void make_cells(const Ui& ui, const SceneDecision& entry, CachedMap& map) {
  const int heads = static_cast<int>(selected_heads(ui.scene, ui.state).size());
  map.missing.clear();
  if (ui.state.map == "fate") {
    map.letters = LetterPyramid(ui.scene.layers() * heads, ui.scene.token_count(),
                                fate_rows(ui.scene, entry, ui.state));
    return;
  }
  std::vector<float> values = ui.state.map == "removed" ? removal_time(ui.scene, entry, ui.state)
                              : ui.state.map == "score" ? score_rank(ui.scene, entry, ui.state)
                                                        : kept_share(ui.scene, entry, ui.state);
  if (values.empty()) {
    map.missing = "no score is stored: decide with --scores";
    return;
  }
  map.shares = ColumnPyramid(ui.scene.layers(), ui.scene.token_count(), std::move(values));
}

void share_map(Ui& ui, const char* slot, int index) {
  const SceneDecision& entry = ui.scene.decisions[static_cast<std::size_t>(index)];
  ImGui::AlignTextToFramePadding();
  ImGui::TextUnformatted(fmt::format("{}: {}", slot, entry.title).c_str());
  ImGui::SameLine(0, ui.px(12));
  choose_mode(ui, slot);
  legend(ui);
  aggregate_choice(ui, slot);
  CachedMap& map = ui.caches.maps[slot];
  const std::string cells = fmt::format("{} {} {} {} {}", index, ui.state.map, heads_key(ui.state),
                                        ui.state.seen, ui.state.before);
  if (map.pyramid_key != cells) {
    make_cells(ui, entry, map);
    map.pyramid_key = cells;
    map.picture_key.clear();
  }
  if (!map.missing.empty()) {
    ImGui::TextDisabled("%s", map.missing.c_str());
    return;
  }
  const ShareRaster view = raster_view(ui);
  const std::string picture = raster_key(ui, view);
  if (map.picture_key != picture) {
    map.texture =
        ui.backend.upload(slot, ui.state.map == "fate" ? rasterise_fates(map.letters, view)
                                                       : rasterise_share(map.shares, view));
    map.picture_key = picture;
  }
  plot_map(ui, slot, map.texture);
}

bool nothing_to_show(const Ui& ui) {
  if (ui.scene.decisions.empty() || ui.scene.token_count() == 0) {
    ImGui::TextDisabled("no decision is open: kvscope decide X.capture.h5 -m snapkv -o DIR");
    return true;
  }
  return false;
}

}  // namespace

void draw_fate_map_a(Ui& ui) {
  if (!nothing_to_show(ui)) {
    share_map(ui, "A", ui.state.a);
  }
}

void draw_fate_map_b(Ui& ui) {
  if (!nothing_to_show(ui)) {
    share_map(ui, "B", ui.state.b);
  }
}

void draw_difference(Ui& ui) {
  if (nothing_to_show(ui)) {
    return;
  }
  ImGui::AlignTextToFramePadding();
  for (const auto& [value, text] :
       {std::pair(1.0, "only A keeps"), std::pair(-1.0, "only B keeps")}) {
    const ImVec2 at = ImGui::GetCursorScreenPos();
    const float size = ImGui::GetFontSize() * 0.75f;
    const float top = at.y + (ImGui::GetFrameHeight() - size) / 2;
    ImGui::GetWindowDrawList()->AddRectFilled(ImVec2(at.x, top), ImVec2(at.x + size, top + size),
                                              to_imgui(difference_colour(value, ui.dark)), 2);
    ImGui::Dummy(ImVec2(size, size));
    ImGui::SameLine(0, ui.px(4));
    ImGui::TextUnformatted(text);
    ImGui::SameLine(0, ui.px(12));
  }
  aggregate_choice(ui, "difference");
  CachedMap& map = ui.caches.maps["difference"];
  const std::string cells = fmt::format("{} {} {} {} {}", ui.state.a, ui.state.b,
                                        heads_key(ui.state), ui.state.seen, ui.state.before);
  if (map.pyramid_key != cells) {
    const auto share = [&](int index) {
      return kept_share(ui.scene, ui.scene.decisions[static_cast<std::size_t>(index)], ui.state);
    };
    map.shares = ColumnPyramid(ui.scene.layers(), ui.scene.token_count(),
                               share_difference(share(ui.state.a), share(ui.state.b)));
    map.pyramid_key = cells;
    map.picture_key.clear();
  }
  const ShareRaster view = raster_view(ui);
  const std::string picture = raster_key(ui, view);
  if (map.picture_key != picture) {
    map.texture = ui.backend.upload("difference", rasterise_difference(map.shares, view));
    map.picture_key = picture;
  }
  plot_map(ui, "difference", map.texture);
}

}  // namespace kvscope::gui
