#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "fonts.h"
#include "kvscope/scene/palette.h"
#include "kvscope/scene/token_strip.h"
#include "panels.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

constexpr int most_shown = 2400;
constexpr float tokens_per_em = 0.45f;  ///< about what fills a line, for placing the selected token

struct Mode {
  const char* id;
  const char* title;
};
constexpr Mode modes[] = {{"fate", "fates"},
                          {"score", "rank of the score"},
                          {"cost", "cost of losing it"},
                          {"difference", "A against B"}};

void choose_mode(Ui& ui) {
  const auto current = std::find_if(std::begin(modes), std::end(modes),
                                    [&](const Mode& mode) { return ui.state.strip == mode.id; });
  ImGui::SetNextItemWidth(ui.px(150));
  if (ImGui::BeginCombo("##strip", current->title)) {
    for (const Mode& mode : modes) {
      if (ImGui::Selectable(mode.title, ui.state.strip == mode.id)) {
        ui.wanted.strip = mode.id;
      }
    }
    ImGui::EndCombo();
  }
  ImGui::SameLine();
}

void fate_legend(Ui& ui) {
  const SceneDecision* entry = ui.scene.decisions.empty()
                                   ? nullptr
                                   : &ui.scene.decisions[static_cast<std::size_t>(ui.state.a)];
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const float size = ImGui::GetFontSize() * 0.75f;
  for (const char letter : fate_order) {
    if (entry != nullptr && entry->fates.total.of(letter) == 0) {
      continue;
    }
    const ImVec2 at = ImGui::GetCursorScreenPos();
    const float top = at.y + (ImGui::GetFrameHeight() - size) / 2;
    draw->AddRectFilled(ImVec2(at.x, top), ImVec2(at.x + size, top + size),
                        to_imgui(fate_colour(letter, ui.dark)), 2);
    ImGui::Dummy(ImVec2(size, size));
    ImGui::SameLine(0, ui.px(4));
    ImGui::AlignTextToFramePadding();
    ImGui::TextUnformatted(fate_name(letter));
    ImGui::SameLine(0, ui.px(12));
  }
  ImGui::TextDisabled("in layer %d; bar: share of the heads that keep it",
                      ui.scene.layer_of(ui.state.layer));
}

void legend(Ui& ui) {
  choose_mode(ui);
  ImGui::AlignTextToFramePadding();
  if (ui.state.strip == "fate") {
    fate_legend(ui);
  } else if (ui.state.strip == "score") {
    ImGui::TextDisabled("layer %d: bright = scored high; bar: share of the heads that keep it",
                        ui.scene.layer_of(ui.state.layer));
  } else if (ui.state.strip == "cost") {
    ImGui::TextDisabled("layer %d: bright = losing this token alone costs most",
                        ui.scene.layer_of(ui.state.layer));
  } else {
    ImGui::TextDisabled("layer %d: orange = only A keeps, blue = only B",
                        ui.scene.layer_of(ui.state.layer));
  }
}

struct Ground {
  Colour colour;
  float alpha;
};

Ground ground_of(const Ui& ui, const StripToken& cell) {
  if (ui.state.strip == "score") {
    return {share_colour(cell.value, ui.dark), 1};
  }
  if (ui.state.strip == "cost") {
    return {cost_colour(cell.value, ui.dark), 1};
  }
  if (ui.state.strip == "difference") {
    return {difference_colour(cell.value, ui.dark), 1};
  }
  const char fate = static_cast<char>(std::toupper(static_cast<unsigned char>(cell.letter)));
  // What is gone stands back, so that what is held stands out; where heads differ both do.
  const bool held = std::string_view("KPTS").find(fate) != std::string_view::npos;
  return {fate_colour(fate, ui.dark), fate != cell.letter ? 0.35f : held ? 1.0f : 0.7f};
}

Colour over(Colour colour, float alpha, ImVec4 below) {
  const auto blend = [alpha](std::uint8_t above, float under) {
    return static_cast<std::uint8_t>(alpha * static_cast<float>(above) + (1 - alpha) * under * 255);
  };
  return {blend(colour.r, below.x), blend(colour.g, below.y), blend(colour.b, below.z)};
}

void tooltip(const Ui& ui, const StripToken& cell) {
  const auto token = static_cast<std::size_t>(cell.token);
  const char fate = static_cast<char>(std::toupper(static_cast<unsigned char>(cell.letter)));
  ImGui::SetTooltip(
      "token %d   '%s'   id %d   position %d\n%s in layer %d%s: kept by %.0f %% of the chosen "
      "heads",
      cell.token, drawable(cell.text).c_str(), ui.scene.tokens.id[token],
      ui.scene.tokens.position[token], fate_name(fate), ui.scene.layer_of(ui.state.layer),
      fate == cell.letter ? "" : " in some of them", 100 * cell.share);
}

/// Whether the search found the token.
bool is_match(Ui& ui, int token) {
  if (ui.state.query.empty()) {
    return false;
  }
  const std::vector<Match>& found = found_matches(ui).matches;
  const auto after =
      std::upper_bound(found.begin(), found.end(), token,
                       [](int value, const Match& match) { return value < match.first; });
  return after != found.begin() && token < std::prev(after)->last;
}

void draw_token(Ui& ui, const StripToken& cell, ImVec2 at, ImVec2 end) {
  ImDrawList* draw = ImGui::GetWindowDrawList();
  const Ground ground = ground_of(ui, cell);
  draw->AddRectFilled(at, end, to_imgui(ground.colour, ground.alpha), ui.px(2));
  const Colour seen =
      over(ground.colour, ground.alpha, ImGui::GetStyleColorVec4(ImGuiCol_WindowBg));
  draw->AddText(ImVec2(at.x + ui.px(1), at.y + ui.px(1)), to_imgui(ink_on(seen)),
                cell.text.c_str());
  const float share = (end.x - at.x) * static_cast<float>(cell.share);
  draw->AddRectFilled(ImVec2(at.x, end.y + ui.px(1)), ImVec2(at.x + share, end.y + ui.px(3)),
                      to_imgui(fate_colour('P', ui.dark)));
  if (is_match(ui, cell.token)) {
    draw->AddLine(ImVec2(at.x, at.y - ui.px(1)), ImVec2(end.x + ui.px(1), at.y - ui.px(1)),
                  ImGui::GetColorU32(ImGuiCol_Text), ui.px(2));
  }
  if (cell.token == ui.state.token) {
    draw->AddRect(ImVec2(at.x - ui.px(2), at.y - ui.px(1)),
                  ImVec2(end.x + ui.px(1), end.y + ui.px(4)), ImGui::GetColorU32(ImGuiCol_Text),
                  ui.px(2), ui.px(2));
  }
}

const std::vector<StripToken>& tokens_to_show(Ui& ui, int first) {
  State of = ui.state;
  of.first = of.last = of.token = 0;
  return ui.caches.strip.get(
      fmt::format("{} {} {}", ui.scene.decisions.size(), first, to_link(of)), [&] {
        auto tokens = token_strip(ui.scene, ui.state, first, first + most_shown);
        for (StripToken& cell : tokens) {
          cell.text = drawable(cell.text);
        }
        return tokens;
      });
}

}  // namespace

void draw_strip(Ui& ui) {
  if (ui.scene.token_count() == 0) {
    ImGui::TextDisabled("no capture is open");
    return;
  }
  legend(ui);
  ImGui::BeginChild("strip");
  const ImVec2 origin = ImGui::GetCursorScreenPos();
  const ImVec2 space = ImGui::GetContentRegionAvail();
  const float line = ImGui::GetFontSize() + ui.px(8);
  const float lines = space.y / line;
  const int room =
      static_cast<int>(space.x / ImGui::GetFontSize() * tokens_per_em * std::max(1.0f, lines));
  const int first =
      std::clamp(ui.state.token - room / 3, 0, std::max(0, ui.scene.token_count() - room));
  ImVec2 at = origin;
  const std::vector<StripToken>& tokens = tokens_to_show(ui, first);
  for (std::size_t index = 0; index < tokens.size(); ++index) {
    const StripToken& cell = tokens[index];
    const float width = std::max(ImGui::CalcTextSize(cell.text.c_str()).x, ui.px(4)) + ui.px(2);
    if (at.x + width > origin.x + space.x && at.x > origin.x) {
      at = ImVec2(origin.x, at.y + line);
    }
    if (at.y + line > origin.y + space.y) {
      break;
    }
    const ImVec2 end(at.x + width, at.y + line - ui.px(5));
    draw_token(ui, cell, at, end);
    if (ImGui::IsMouseHoveringRect(at, ImVec2(end.x, end.y + ui.px(4))) &&
        ImGui::IsWindowHovered()) {
      tooltip(ui, cell);
      if (ImGui::IsMouseClicked(ImGuiMouseButton_Left)) {
        ui.wanted.token = cell.token;
      }
    }
    at.x = end.x + ui.px(1);
    // Empty lines of the text do not take lines of the panel.
    const bool next_breaks = index + 1 < tokens.size() && tokens[index + 1].breaks &&
                             tokens[index + 1].text == cell.text;
    if (cell.breaks && !next_breaks) {
      at = ImVec2(origin.x, at.y + line);
    }
  }
  ImGui::EndChild();
}

}  // namespace kvscope::gui
