#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "caches.h"
#include "kvscope/scene/bookmarks.h"
#include "kvscope/scene/commands.h"
#include "kvscope/scene/palette.h"
#include "kvscope/scene/scene.h"
#include "kvscope/storage/isolated.h"
#include "what_if.h"

namespace kvscope::gui {

/// What a panel may use: the scene, the state it shows, and where it puts what a click asks for.
struct Ui {
  const Scene& scene;
  const State& state;  ///< of this frame
  State& wanted;       ///< becomes the state of the next frame
  Backend& backend;
  Caches& caches;
  std::vector<Bookmark>& bookmarks;
  WhatIf& what_if;
  std::string& command;                  ///< id of a command to run after this frame
  const FileChecker* checker = nullptr;  ///< of files that are opened again; may be null
  bool dark = true;
  float em = 1;  ///< pixels of a length that is 1 at the usual text size of 15

  float px(float length) const { return em * length; }
};

/// What the state's query finds, looked up once.
const SearchResult& found_matches(Ui& ui);

/// One panel: a window that draws its content and nothing else. Registered in one list
/// (panels.cpp).
struct Panel {
  const char* title;
  const char* layout;  ///< in which layouts it shows, e.g. "explore compare"
  void (*draw)(Ui& ui);
};
const std::vector<Panel>& panels();

/// "A against B: difference" as a file name has it: "a-against-b-difference".
std::string panel_slug(const Panel& panel);

/// Panels by titles or slugs, upper and lower case alike; "spectra" stands for the plots of the
/// weights layout and "all" for every panel, each panel once. Throws Error{usage} on any other
/// name, listing the names.
std::vector<const Panel*> panels_named(const std::vector<std::string>& names);

/// Arranges the panels of a layout inside the dock space `root`.
void dock_panels(ImGuiID root, const std::string& layout, ImVec2 size);

/// "Ctrl+2", "X", "Shift+F3" as an ImGui key chord; 0 for none.
ImGuiKeyChord chord_of(const std::string& text);

/// The program behind every back end: state, undo, keys, palette, layout and panels.
class Viewer {
 public:
  /// `sidecar`: file of the bookmarks; empty = they are not kept. Throws Error{corrupt_file |
  /// usage} if that file exists and is not theirs.
  Viewer(Scene scene, State state, Backend& backend, float scale = 1, std::string sidecar = {});

  /// Records one frame of ImGui between the back end's begin_frame and end_frame.
  void frame();
  const State& state() const { return state_; }
  const Scene& scene() const { return scene_; }
  const std::string& message() const { return message_; }
  float scale() const { return scale_; }
  bool wants_to_quit() const { return quit_; }
  /// Whether something is being read or decided that a later frame will show.
  bool busy() const { return job_ != nullptr || caches_.attention.loading.valid(); }
  void set_state(const State& state);
  /// Runs a command of the table by its id.
  void run(const std::string& id);
  void undo();
  void redo();
  /// Shows other files' content from now on, keeping the state as far as it goes; when following,
  /// goes to the newest token.
  void replace(Scene scene);
  void follow(bool on) { following_ = on; }
  /// Files go through `checker` before they are opened again; it must outlive the viewer.
  void use(const FileChecker* checker) { checker_ = checker; }
  /// Shows this panel alone, over the whole picture; null = all of the layout again.
  void show_only(const Panel* panel) { only_ = panel; }
  void say(const std::string& message) { message_ = message; }

 private:
  void perform(Effect effect);
  void keys();
  void palette();
  void help();
  void dock();
  void header();
  void draw_panels(Ui& context);
  void draw_only(Ui& context);
  void play();
  void try_method();
  Ui ui(State& wanted);
  bool in_gesture() const;

  Scene scene_;
  State state_;
  Backend& backend_;
  Caches caches_;
  std::string sidecar_;
  std::vector<Bookmark> bookmarks_;
  WhatIf what_if_;
  std::unique_ptr<DecideJob> job_;
  std::vector<State> past_;
  std::vector<State> future_;
  const FileChecker* checker_ = nullptr;
  const Panel* only_ = nullptr;
  std::string docked_layout_;
  std::string theme_;
  std::string message_;
  std::string command_;
  float scale_;
  float header_height_ = 0;
  float applied_scale_ = 0;
  double wheel_time_ = -1;  ///< of the last turn of the wheel
  double play_time_ = 0;
  bool gesture_ = false;  ///< the last undo step is still being made
  bool playing_ = false;
  bool following_ = false;
  bool palette_open_ = false;
  bool help_open_ = false;
  bool quit_ = false;
  char palette_text_[64] = "";
};

ImU32 to_imgui(Colour colour, float alpha = 1.0f);

}  // namespace kvscope::gui
