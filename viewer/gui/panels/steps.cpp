#include <fmt/format.h>
#include <implot.h>

#include <algorithm>

#include "fonts.h"
#include "kvscope/scene/moment.h"
#include "kvscope/scene/palette.h"
#include "kvscope/scene/texts.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

const Timeline& timeline_of(Ui& ui, int index) {
  return ui.caches.timelines[index].get(fmt::format("{}", ui.scene.token_count()), [&] {
    const Decision& decision = ui.scene.decisions[static_cast<std::size_t>(index)].decision;
    const int prompt = ui.scene.tokens.prompt_tokens;
    return Timeline{moments(decision, prompt), moment_counts(decision, prompt)};
  });
}

/// Index of the moment that the state shows.
std::size_t shown_moment(const Timeline& timeline, const State& state) {
  if (state.seen < 0) {
    return timeline.moments.size() - 1;
  }
  for (std::size_t at = timeline.moments.size(); at-- > 0;) {
    const RunMoment& moment = timeline.moments[at];
    if (moment.seen < state.seen || (moment.seen == state.seen && moment.before == state.before)) {
      return at;
    }
  }
  return 0;
}

void controls(Ui& ui, const Timeline& timeline) {
  constexpr std::pair<const char*, const char*> buttons[] = {
      {"|<", "first_moment"}, {"<<", "previous_cut"}, {"<", "step_back"},   {"play", "play"},
      {">", "step_on"},       {">>", "next_cut"},     {">|", "last_moment"}};
  for (const auto& [text, id] : buttons) {
    if (ImGui::Button(text)) {
      ui.command = id;
    }
    if (ImGui::IsItemHovered()) {
      ImGui::SetTooltip("%s  (%s)", command(id).title.c_str(), command(id).key.c_str());
    }
    ImGui::SameLine(0, ui.px(3));
  }
  const std::size_t at = shown_moment(timeline, ui.state);
  const RunMoment& moment = timeline.moments[at];
  const MomentCounts& counts = timeline.counts[at];
  const CacheForm& form = ui.scene.decisions[static_cast<std::size_t>(ui.state.a)].decision.form;
  const std::string what =
      moment.step == 0
          ? fmt::format("prefill, {} tokens", grouped_digits(moment.seen))
          : fmt::format("decode step {}, {} tokens", moment.step, grouped_digits(moment.seen));
  ImGui::SameLine(0, ui.px(10));
  ImGui::AlignTextToFramePadding();
  ImGui::TextUnformatted(
      fmt::format("{}{}: {} slots held ({})   +{} arrived, {} evicted, {} merged, {} dropped", what,
                  moment.cut ? (moment.before ? ", before the cut" : ", after the cut") : "",
                  grouped_digits(counts.held),
                  slots_as_bytes(ui.scene, form, counts.held, counts.whole),
                  grouped_digits(counts.arrived), grouped_digits(counts.evicted),
                  grouped_digits(counts.merged), grouped_digits(counts.dropped))
          .c_str());
}

void lane(const Timeline& timeline, const char* label, ImVec4 colour, float weight) {
  std::vector<double> x = {0};
  std::vector<double> y = {0};
  for (std::size_t at = 0; at < timeline.moments.size(); ++at) {
    x.push_back(timeline.moments[at].seen);
    y.push_back(static_cast<double>(timeline.counts[at].held));
  }
  ImPlot::PlotLine(label, x.data(), y.data(), static_cast<int>(x.size()),
                   {ImPlotProp_LineColor, colour, ImPlotProp_LineWeight, weight});
}

void choose_moment(Ui& ui, const Timeline& timeline) {
  if (!ImPlot::IsPlotHovered() || !ImGui::IsMouseDown(ImGuiMouseButton_Left)) {
    return;
  }
  const double x = ImPlot::GetPlotMousePos().x;
  std::size_t best = 0;
  for (std::size_t at = 1; at < timeline.moments.size(); ++at) {
    const double here = timeline.moments[at].seen;
    const double before = timeline.moments[best].seen;
    best = std::abs(here - x) <= std::abs(before - x) ? at : best;
  }
  const bool last = best + 1 == timeline.moments.size();
  ui.wanted.seen = last ? -1 : timeline.moments[best].seen;
  ui.wanted.before = !last && timeline.moments[best].before;
}

void plot(Ui& ui, const Timeline& a) {
  if (!ImPlot::BeginPlot("##steps", ImVec2(-1, -1),
                         ImPlotFlags_NoMenus | ImPlotFlags_NoMouseText | ImPlotFlags_NoBoxSelect)) {
    return;
  }
  ImPlot::SetupAxes("tokens that have passed", "slots held", ImPlotAxisFlags_Lock,
                    ImPlotAxisFlags_Lock);
  std::int64_t most = 1;
  for (const MomentCounts& counts : a.counts) {
    most = std::max(most, counts.held);
  }
  ImPlot::SetupAxisLimits(ImAxis_X1, 0, a.moments.back().seen * 1.02, ImPlotCond_Always);
  ImPlot::SetupAxisLimits(ImAxis_Y1, 0, static_cast<double>(most) * 1.1, ImPlotCond_Always);
  ImPlot::SetupAxisFormat(ImAxis_X1, "%.0f");
  ImPlot::SetupLegend(ImPlotLocation_NorthWest, ImPlotLegendFlags_Horizontal);
  if (ui.state.b != ui.state.a) {
    lane(timeline_of(ui, ui.state.b), "B", ImVec4(0.35f, 0.59f, 0.94f, 1), ui.px(1.5f));
  }
  lane(a, "A", ImVec4(0.94f, 0.59f, 0.24f, 1), ui.px(2));
  const double here = a.moments[shown_moment(a, ui.state)].seen;
  ImPlot::PlotInfLines("##here", &here, 1,
                       {ImPlotProp_LineColor, ImGui::GetStyleColorVec4(ImGuiCol_Text),
                        ImPlotProp_LineWeight, ui.px(1)});
  choose_moment(ui, a);
  ImPlot::EndPlot();
}

}  // namespace

void draw_steps(Ui& ui) {
  if (ui.scene.decisions.empty() || ui.scene.token_count() == 0) {
    ImGui::TextDisabled("no decision is open");
    return;
  }
  const Timeline& a = timeline_of(ui, ui.state.a);
  if (a.moments.empty()) {
    ImGui::TextDisabled("the decision covers no token");
    return;
  }
  controls(ui, a);
  plot(ui, a);
}

}  // namespace kvscope::gui
