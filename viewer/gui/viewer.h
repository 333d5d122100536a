#pragma once

#include <map>
#include <string>
#include <vector>

#include "backend.h"
#include "kvscope/scene/palette.h"
#include "kvscope/scene/scene.h"

namespace kvscope::gui {

/// What a panel may use: the scene, the state it shows, and where it puts the state a click asks
/// for.
struct Ui {
  const Scene& scene;
  const State& state;  ///< of this frame
  State& wanted;       ///< becomes the state of the next frame
  Backend& backend;
  bool dark = true;
};

/// One panel: a window that draws its content and nothing else. Registered in one list
/// (viewer.cpp).
struct Panel {
  const char* title;
  std::string layout;  ///< in which layouts it shows, e.g. "explore compare"
  void (*draw)(Ui& ui);
};

void draw_selection(Ui& ui);
void draw_strip(Ui& ui);
void draw_fate_map_a(Ui& ui);
void draw_fate_map_b(Ui& ui);
void draw_difference(Ui& ui);
void draw_heads(Ui& ui);
void draw_inspector(Ui& ui);
void draw_agreement(Ui& ui);
void draw_checks(Ui& ui);
void draw_summary(Ui& ui);
void draw_eigenvalues(Ui& ui);
void draw_ranks(Ui& ui);
void draw_asymmetry(Ui& ui);
void draw_head_grid(Ui& ui);

/// The program behind every back end: state, undo, keys, palette, layout and panels.
class Viewer {
 public:
  Viewer(Scene scene, State state, Backend& backend);

  /// Records one frame of ImGui between the back end's begin_frame and end_frame.
  void frame();
  const State& state() const { return state_; }
  void set_state(const State& state);
  void run(const std::string& command);
  void undo();

 private:
  void keys();
  void palette();
  void dock();
  void header();

  Scene scene_;
  State state_;
  Backend& backend_;
  std::vector<State> history_;
  std::string docked_layout_;
  std::string theme_;
  std::string message_;
  bool palette_open_ = false;
  char palette_text_[64] = "";
};

ImU32 to_imgui(Colour colour, float alpha = 1.0f);

}  // namespace kvscope::gui
