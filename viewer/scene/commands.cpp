#include "kvscope/scene/commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

State moved(State state, int State::*member, int by) {
  state.*member += by;
  return state;
}

Command step(const char* id, const char* title, const char* key, int State::*member, int by) {
  return {id, title, key,
          [member, by](const Scene&, const State& state) { return moved(state, member, by); }};
}

Command choose(const char* id, const char* title, const char* key, std::string State::*member,
               const char* value) {
  return {id, title, key, [member, value](const Scene&, State state) {
            state.*member = value;
            return state;
          }};
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

State zoomed(const Scene& scene, State state, double factor) {
  const int last = state.last <= 0 ? scene.token_count() : state.last;
  const int span = std::max(16, static_cast<int>((last - state.first) * factor));
  const int middle = std::clamp(state.token, state.first, last);
  state.first = std::max(0, middle - span / 2);
  state.last = std::min(scene.token_count(), state.first + span);
  return state;
}

std::vector<Command> make_commands() {
  return {
      step("next_token", "Next token", "Right", &State::token, 1),
      step("previous_token", "Previous token", "Left", &State::token, -1),
      step("next_layer", "Next layer", "Down", &State::layer, 1),
      step("previous_layer", "Previous layer", "Up", &State::layer, -1),
      step("next_method", "Next method as A", "M", &State::a, 1),
      step("previous_method", "Previous method as A", "N", &State::a, -1),
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
      {"fit", "Show all tokens", "F",
       [](const Scene&, State state) {
         state.first = state.last = 0;
         return state;
       }},
      {"zoom_in", "Zoom in at the token", "+",
       [](const Scene& scene, const State& state) { return zoomed(scene, state, 0.5); }},
      {"zoom_out", "Zoom out at the token", "-",
       [](const Scene& scene, const State& state) { return zoomed(scene, state, 2.0); }},
      {"costliest_loss", "Go to the most costly lost token", "L",
       [](const Scene& scene, const State& state) {
         return at_place(state, costliest_loss(scene, state));
       }},
      {"worst_agreement", "Go to the head where A and B differ most", "D",
       [](const Scene& scene, const State& state) {
         return at_place(state, worst_agreement(scene, state));
       }},
      choose("explore", "Layout: explore", "Ctrl+1", &State::layout, "explore"),
      choose("compare", "Layout: compare A and B", "Ctrl+2", &State::layout, "compare"),
      choose("weights", "Layout: weights", "Ctrl+3", &State::layout, "weights"),
      choose("mean", "Map: mean of folded tokens", "", &State::aggregate, "mean"),
      choose("any_loss", "Map: any loss of folded tokens", "", &State::aggregate, "any"),
      choose("heads_kept", "Heads: slots held", "", &State::head_value, "kept"),
      choose("heads_error", "Heads: output error", "", &State::head_value, "error"),
      choose("heads_mass", "Heads: retained attention", "", &State::head_value, "mass"),
      choose("heads_jaccard", "Heads: agreement of A and B", "", &State::head_value, "jaccard"),
      choose("dark", "Theme: dark", "", &State::theme, "dark"),
      choose("light", "Theme: light", "", &State::theme, "light"),
  };
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> table = make_commands();
  return table;
}

State run_command(const std::string& id, const Scene& scene, const State& state) {
  std::vector<std::string> ids;
  for (const Command& command : commands()) {
    if (command.id == id) {
      return clamped(command.run(scene, state), scene.limits());
    }
    ids.push_back(command.id);
  }
  const std::string near = nearest_name(id, ids.data(), static_cast<int>(ids.size()));
  throw Error(
      ErrorCode::usage, fmt::format("unknown command '{}'", id), "--do",
      near.empty() ? "the palette (Ctrl+K) lists them" : fmt::format("did you mean '{}'?", near));
}

Place worst_agreement(const Scene& scene, const State& state) {
  if (scene.decisions.size() < 2 || state.a == state.b) {
    return {};
  }
  const Agreement compared = agreement(scene.decisions[static_cast<std::size_t>(state.a)].decision,
                                       scene.decisions[static_cast<std::size_t>(state.b)].decision);
  return {compared.worst_layer_row, compared.worst_kv_head, -1};
}

}  // namespace kvscope
