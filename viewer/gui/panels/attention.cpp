#include "kvscope/scene/attention.h"

#include <fmt/format.h>
#include <implot.h>

#include <algorithm>
#include <cmath>

#include "kvscope/scene/palette.h"
#include "load.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

constexpr double faintest = 1e-4;  ///< attention that the scale begins at

/// Attention on a logarithmic scale from `faintest` to 1.
Pixels coloured(const AttentionPicture& picture, bool dark) {
  Pixels pixels{picture.width, picture.height, {}};
  pixels.rgba.reserve(picture.probability.size() * 4);
  for (const float probability : picture.probability) {
    const double part =
        1 - std::log(std::max(static_cast<double>(probability), faintest)) / std::log(faintest);
    const Colour colour = share_colour(part, dark);
    pixels.rgba.insert(pixels.rgba.end(), {colour.r, colour.g, colour.b, 255});
  }
  return pixels;
}

/// Starts reading what the state points at; true once it is there.
bool ready(Ui& ui, int query_head) {
  AttentionCache& cache = ui.caches.attention;
  const std::string key = fmt::format("{} {}", ui.state.layer, query_head);
  if (cache.loading.valid()) {
    if (cache.loading.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      return false;
    }
    try {
      cache.tile = cache.loading.get();
      cache.missing.clear();
    } catch (const Error& error) {
      cache.missing = error.message() + (error.fix().empty() ? "" : "; " + error.fix());
    }
    cache.picture_key.clear();
    cache.shown = cache.asked;
  }
  if (cache.shown != key && cache.asked != key) {
    cache.asked = key;
    cache.loading =
        load_attention(ui.scene.capture, ui.scene.layer_of(ui.state.layer), query_head, ui.checker);
  }
  return cache.shown == key;
}

void plot(Ui& ui, const AttentionTile& tile) {
  if (!ImPlot::BeginPlot("##attention", ImVec2(-1, -1),
                         ImPlotFlags_NoLegend | ImPlotFlags_NoMenus | ImPlotFlags_NoMouseText)) {
    return;
  }
  const double first = tile.first_query;
  const double last = tile.first_query + tile.queries;
  ImPlot::SetupAxes("key", "query", ImPlotAxisFlags_NoGridLines,
                    ImPlotAxisFlags_NoGridLines | ImPlotAxisFlags_Invert);
  ImPlot::SetupAxisFormat(ImAxis_X1, "%.0f");
  ImPlot::SetupAxisFormat(ImAxis_Y1, "%.0f");
  ImPlot::SetupAxesLimits(0, tile.keys, first, last);
  ImPlot::PlotImage("##tile", ui.caches.attention.texture, ImPlotPoint(0, first),
                    ImPlotPoint(tile.keys, last), ImVec2(0, 1), ImVec2(1, 0));
  const double token = ui.state.token + 0.5;
  ImPlot::PlotInfLines(
      "##token", &token, 1,
      {ImPlotProp_LineColor, ImVec4(1, 1, 1, 0.5f), ImPlotProp_LineWeight, ui.px(1)});
  if (ImPlot::IsPlotHovered()) {
    const ImPlotPoint mouse = ImPlot::GetPlotMousePos();
    const int key = static_cast<int>(mouse.x);
    const int query = static_cast<int>(mouse.y) - tile.first_query;
    if (key >= 0 && key < tile.keys && query >= 0 && query < tile.queries) {
      const auto at = static_cast<std::size_t>(query) * static_cast<std::size_t>(tile.keys) +
                      static_cast<std::size_t>(key);
      ImGui::SetTooltip("query %d attends to key %d with %.4g", query + tile.first_query, key,
                        static_cast<double>(tile.probability[at]));
      if (ImGui::IsMouseReleased(ImGuiMouseButton_Left)) {
        ui.wanted.token = key;
      }
    }
  }
  ImPlot::EndPlot();
}

}  // namespace

void draw_attention(Ui& ui) {
  const ModelShape& shape = ui.scene.capture.shape;
  if (ui.scene.layers() == 0 || shape.kv_heads == 0) {
    ImGui::TextDisabled("no capture is open");
    return;
  }
  AttentionCache& cache = ui.caches.attention;
  const int group = shape.group_size();
  const int kv_head = ui.state.kv_heads.empty() ? 0 : ui.state.kv_heads.front();
  ImGui::SetNextItemWidth(ui.px(150));
  ImGui::SliderInt("##member", &cache.member, 0, group - 1,
                   fmt::format("query head {}", kv_head * group + cache.member).c_str());
  cache.member = std::clamp(cache.member, 0, group - 1);
  ImGui::SameLine();
  if (!ready(ui, kv_head * group + cache.member)) {
    ImGui::TextDisabled("reading queries and keys");
    return;
  }
  if (!cache.missing.empty()) {
    ImGui::TextWrapped("%s", cache.missing.c_str());
    return;
  }
  ImGui::TextDisabled("layer %d, exact, from stored queries and keys; a pixel shows its largest",
                      cache.tile.layer);
  const ImVec2 space = ImGui::GetContentRegionAvail();
  const std::string key = fmt::format("{} {} {} {}", cache.shown, static_cast<int>(space.x),
                                      static_cast<int>(space.y), ui.dark);
  if (cache.picture_key != key) {
    const AttentionPicture picture = shrink(cache.tile, std::max(16, static_cast<int>(space.x)),
                                            std::max(16, static_cast<int>(space.y)));
    cache.texture = ui.backend.upload("attention", coloured(picture, ui.dark));
    cache.picture_key = key;
  }
  plot(ui, cache.tile);
}

}  // namespace kvscope::gui
