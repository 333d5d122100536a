#include "kvscope/scene/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "kvscope/core/error.h"
#include "kvscope/scene/head_map.h"
#include "kvscope/scene/moment.h"
#include "kvscope/scene/search.h"

namespace kvscope {
namespace {

constexpr int least_span = 16;  // tokens in view

Command step(const char* id, const char* title, const char* key, int State::*member, int by) {
  return {id, title, key, [member, by](const Scene&, State state) {
            state.*member += by;
            return state;
          }};
}

Command choose(const std::string& id, const std::string& title, const char* key,
               std::string State::*member, const char* value) {
  return {id, title, key, [member, value](const Scene&, State state) {
            state.*member = value;
            return state;
          }};
}

Command effect(const char* id, const char* title, const char* key, Effect what) {
  return {id, title, key, [](const Scene&, const State& state) { return state; }, what};
}

State at_place(State state, const Place& place) {
  if (place.row >= 0) {
    state.layer = place.row;
    state.kv_heads = {place.kv_head};
  }
  if (place.token >= 0) {
    state.token = place.token;
  }
  return state;
}

State in_view(const Scene& scene, State state, int first, int span) {
  span = std::clamp(span, std::min(least_span, scene.token_count()), scene.token_count());
  state.first = std::clamp(first, 0, scene.token_count() - span);
  state.last = state.first + span;
  return state;
}

State zoomed(const Scene& scene, const State& state, double factor) {
  const int last = state.last <= 0 ? scene.token_count() : state.last;
  const int span = std::max(least_span, static_cast<int>((last - state.first) * factor));
  return in_view(scene, state, std::clamp(state.token, state.first, last) - span / 2, span);
}

State panned(const Scene& scene, const State& state, double share) {
  const int last = state.last <= 0 ? scene.token_count() : state.last;
  const int span = last - state.first;
  return in_view(scene, state, state.first + static_cast<int>(span * share), span);
}

/// The next head in order of disagreement of A and B, the worst first.
State next_disagreement(const Scene& scene, const State& state, int by) {
  State shown = state;
  shown.head_value = "jaccard";
  const HeadMap map = head_map(scene, shown);
  std::vector<int> order(map.values.size());
  for (std::size_t at = 0; at < order.size(); ++at) {
    order[at] = static_cast<int>(at);
  }
  if (order.empty()) {
    return state;
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return map.values[static_cast<std::size_t>(a)] < map.values[static_cast<std::size_t>(b)];
  });
  const auto count = static_cast<int>(order.size());
  int at = by > 0 ? -1 : count;
  if (state.kv_heads.size() == 1) {
    const int here = state.layer * map.kv_heads + state.kv_heads.front();
    at = static_cast<int>(std::find(order.begin(), order.end(), here) - order.begin());
  }
  const int place = order[static_cast<std::size_t>((at + by + count) % count)];
  return at_place(state, {place / map.kv_heads, place % map.kv_heads, -1});
}

State at_match(const Scene& scene, State state, int by) {
  const SearchResult result = search(scene, state);
  const int index = match_beside(result.matches, state.token, by);
  if (index >= 0) {
    state.token = result.matches[static_cast<std::size_t>(index)].first;
  }
  return state;
}

Command in_time(const char* id, const char* title, const char* key, int by, bool cuts_only) {
  return {id, title, key, [by, cuts_only](const Scene& scene, const State& state) {
            return moved_in_time(scene, state, by, cuts_only);
          }};
}

std::vector<Command> place_commands() {
  return {
      step("next_token", "Next token", "Right", &State::token, 1),
      step("previous_token", "Previous token", "Left", &State::token, -1),
      step("next_layer", "Next layer", "Down", &State::layer, 1),
      step("previous_layer", "Previous layer", "Up", &State::layer, -1),
      step("next_method", "Next method as A", "N", &State::a, 1),
      step("previous_method", "Previous method as A", "Shift+N", &State::a, -1),
      {"swap", "Swap A and B", "X",
       [](const Scene&, State state) {
         std::swap(state.a, state.b);
         return state;
       }},
      {"all_heads", "Select all heads", "H",
       [](const Scene&, State state) {
         state.kv_heads.clear();
         return state;
       }},
      {"costliest_loss", "Go to the most costly lost token", "L",
       [](const Scene& scene, const State& state) {
         return at_place(state, costliest_loss(scene, state));
       }},
      {"worst_agreement", "Go to the head where A and B differ most", "J",
       [](const Scene& scene, const State& state) {
         return at_place(state, worst_agreement(scene, state));
       }},
      {"next_disagreement", "Next head by disagreement of A and B", "]",
       [](const Scene& scene, const State& state) { return next_disagreement(scene, state, 1); }},
      {"previous_disagreement", "Previous head by disagreement of A and B", "[",
       [](const Scene& scene, const State& state) { return next_disagreement(scene, state, -1); }},
      {"next_match", "Next match of the search", "F3",
       [](const Scene& scene, const State& state) { return at_match(scene, state, 1); }},
      {"previous_match", "Previous match of the search", "Shift+F3",
       [](const Scene& scene, const State& state) { return at_match(scene, state, -1); }},
  };
}

std::vector<Command> view_commands() {
  return {
      {"fit", "Show all tokens", "F",
       [](const Scene&, State state) {
         state.first = state.last = 0;
         return state;
       }},
      {"zoom_selection", "Zoom to the token", "Z",
       [](const Scene& scene, const State& state) {
         return in_view(scene, state, state.token - 32, 64);
       }},
      {"zoom_in", "Zoom in at the token", "W",
       [](const Scene& scene, const State& state) { return zoomed(scene, state, 0.5); }},
      {"zoom_out", "Zoom out at the token", "S",
       [](const Scene& scene, const State& state) { return zoomed(scene, state, 2.0); }},
      {"pan_left", "Move the view to the left", "A",
       [](const Scene& scene, const State& state) { return panned(scene, state, -0.25); }},
      {"pan_right", "Move the view to the right", "D",
       [](const Scene& scene, const State& state) { return panned(scene, state, 0.25); }},
      in_time("step_back", "One moment back", ",", -1, false),
      in_time("step_on", "One moment on", ".", 1, false),
      in_time("previous_cut", "Previous cut", "Ctrl+,", -1, true),
      in_time("next_cut", "Next cut", "Ctrl+.", 1, true),
      {"first_moment", "Start of the run", "Home",
       [](const Scene& scene, const State& state) {
         return moved_in_time(scene, state, -(1 << 28), false);
       }},
      {"last_moment", "End of the run", "End",
       [](const Scene&, State state) {
         state.seen = -1;
         state.before = false;
         return state;
       }},
      choose("explore", "Layout: explore", "Ctrl+1", &State::layout, "explore"),
      choose("compare", "Layout: compare A and B", "Ctrl+2", &State::layout, "compare"),
      choose("merge", "Layout: steps and merges", "Ctrl+3", &State::layout, "merge"),
      choose("weights", "Layout: weights", "Ctrl+4", &State::layout, "weights"),
      choose("mean", "Map: mean of folded tokens", "", &State::aggregate, "mean"),
      choose("any_loss", "Map: any loss of folded tokens", "", &State::aggregate, "any"),
      choose("map_share", "Map: share of heads that keep", "", &State::map, "share"),
      choose("map_fate", "Map: fates by layer and head", "", &State::map, "fate"),
      choose("map_removed", "Map: time of removal", "", &State::map, "removed"),
      choose("map_score", "Map: rank of the score", "", &State::map, "score"),
      choose("strip_fate", "Text: fates", "", &State::strip, "fate"),
      choose("strip_score", "Text: rank of the score", "", &State::strip, "score"),
      choose("strip_cost", "Text: cost of losing it", "", &State::strip, "cost"),
      choose("strip_difference", "Text: A against B", "", &State::strip, "difference"),
      choose("dark", "Theme: dark", "", &State::theme, "dark"),
      choose("light", "Theme: light", "", &State::theme, "light"),
  };
}

std::vector<Command> program_commands() {
  return {
      effect("palette", "Commands", "Ctrl+K", Effect::palette),
      effect("help", "Keys", "F1", Effect::help),
      effect("find", "Search", "Ctrl+F", Effect::find),
      effect("undo", "Undo", "Ctrl+Z", Effect::undo),
      effect("redo", "Redo", "Ctrl+Y", Effect::redo),
      effect("play", "Play or pause the run", "Space", Effect::play),
      effect("follow", "Follow a run in progress", "", Effect::follow),
      effect("copy_value", "Copy what the inspector says", "Ctrl+C", Effect::copy_value),
      effect("copy_link", "Copy a link to this view", "Ctrl+Shift+C", Effect::copy_link),
      effect("bookmark", "Bookmark this view", "M", Effect::bookmark),
      effect("export_csv", "Export the numbers of decision A as CSV", "", Effect::export_csv),
      effect("export_png", "Export the window as PNG", "", Effect::export_png),
      effect("recompute", "What if: decide again with other parameters", "R", Effect::recompute),
      effect("larger", "Larger text", "Ctrl+=", Effect::larger),
      effect("smaller", "Smaller text", "Ctrl+-", Effect::smaller),
      effect("quit", "Close", "Ctrl+Q", Effect::quit),
  };
}

std::vector<Command> make_commands() {
  std::vector<Command> all = place_commands();
  std::ranges::move(view_commands(), std::back_inserter(all));
  for (const HeadValue& value : head_values()) {
    all.push_back(choose(std::string("heads_") + value.id, std::string("Heads: ") + value.title, "",
                         &State::head_value, value.id));
  }
  std::ranges::move(program_commands(), std::back_inserter(all));
  return all;
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> table = make_commands();
  return table;
}

const Command& command(const std::string& id) {
  std::vector<std::string> ids;
  for (const Command& entry : commands()) {
    if (entry.id == id) {
      return entry;
    }
    ids.push_back(entry.id);
  }
  const std::string near = nearest_name(id, ids.data(), static_cast<int>(ids.size()));
  throw Error(
      ErrorCode::usage, fmt::format("unknown command '{}'", id), "--do",
      near.empty() ? "the palette (Ctrl+K) lists them" : fmt::format("did you mean '{}'?", near));
}

State run_command(const std::string& id, const Scene& scene, const State& state) {
  return clamped(command(id).run(scene, state), scene.limits());
}

Place worst_agreement(const Scene& scene, const State& state) {
  if (scene.decisions.size() < 2 || state.a == state.b) {
    return {};
  }
  const Decision& a = scene.decisions[static_cast<std::size_t>(state.a)].decision;
  const Decision& b = scene.decisions[static_cast<std::size_t>(state.b)].decision;
  if (a.tokens != b.tokens) {
    return {};
  }
  const Agreement compared = agreement(a, b);
  return {compared.worst_layer_row, compared.worst_kv_head, -1};
}

}  // namespace kvscope
