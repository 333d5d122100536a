#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// A user action. Menus, keys, the palette, `--do` and tests all run the same table.
struct Command {
  std::string id;  ///< "swap", "next_layer", ...
  std::string title;
  std::string key;  ///< "X", "Right", "Ctrl+2"; empty = none
  std::function<State(const Scene&, State)> run;
};

const std::vector<Command>& commands();

/// Runs a command by its id. Throws Error{usage} with the nearest id.
State run_command(const std::string& id, const Scene& scene, const State& state);

/// The layer and head where A and B disagree most.
Place worst_agreement(const Scene& scene, const State& state);

}  // namespace kvscope
