#pragma once

#include <string>
#include <vector>

#include "backend.h"

namespace kvscope::gui {

/// The command line of kvscope-viewer.
struct Options {
  std::vector<std::string> files;
  std::string state;                ///< a link
  std::string render;               ///< PNG to write instead of opening a window
  std::vector<std::string> panels;  ///< each alone in a picture; several: `render` is a folder
  std::vector<std::string> commands;
  BackendSize size;
  bool checks = false;
  bool follow = false;
  std::string find;  ///< text to search for and to go to
  std::string theme;
  std::string font;
  float scale = 0;  ///< of text and spacing; 0 = from the size of the picture or the monitor
  std::string backend = "auto";
};

/// Parses; -1 to go on, else the exit status (0 after --help, 2 wrong usage).
int parse_options(int argc, char** argv, Options& options);

}  // namespace kvscope::gui
