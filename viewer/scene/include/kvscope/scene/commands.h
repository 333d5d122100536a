#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// What a command asks of the program around the state.
enum class Effect {
  none,
  undo,
  redo,
  palette,
  help,
  find,    ///< puts the cursor into the search field
  play,    ///< starts or stops moving through the run
  follow,  ///< keeps at the newest step of a run in progress, or stops doing so
  copy_link,
  copy_value,
  bookmark,
  export_csv,
  export_png,
  recompute,
  larger,
  smaller,
  quit,
};

/// A user action. Menus, keys, the palette, `--do` and tests all run the same table.
struct Command {
  std::string id;  ///< "swap", "next_layer", ...
  std::string title;
  std::string key;  ///< "X", "Right", "Ctrl+2"; empty = none
  std::function<State(const Scene&, State)> run;
  Effect effect = Effect::none;
};

const std::vector<Command>& commands();

/// The command of an id. Throws Error{usage} with the nearest id.
const Command& command(const std::string& id);

/// Runs a command's part on the state.
State run_command(const std::string& id, const Scene& scene, const State& state);

/// The layer and head where A and B disagree most.
Place worst_agreement(const Scene& scene, const State& state);

}  // namespace kvscope
