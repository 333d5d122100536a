#include "options.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "kvscope/core/error.h"

namespace kvscope::gui {

int parse_options(int argc, char** argv, Options& options) {
  CLI::App app{"Shows which tokens each method kept, merged or lost, why, and what it cost"};
  app.name("kvscope view");
  std::string size = "1600x1000";
  app.add_option("FILES", options.files,
                 "X.capture.h5, D.decision.h5 ..., S.spectrum.h5, answers.json of generate");
  app.add_option("--state", options.state, "A link copied from the viewer, or JSON: what to show");
  app.add_option("--find", options.find, "Search for this text and go to it");
  app.add_option("--render", options.render, "Write a picture instead of opening a window");
  app.add_option(
         "--panel", options.panels,
         "With --render: this panel alone, e.g. eigenvalues or layer-token; spectra or all, or "
         "--panel\nrepeated: one picture each, NAME.png in the folder --render")
      ->needs("--render")
      ->allow_extra_args(false);
  app.add_option("--size", size, "Of the picture or window in pixels")->capture_default_str();
  app.add_flag("--checks", options.checks,
               "Print health checks as text; exit status 3 if one fails");
  app.add_option("--theme", options.theme, "dark or light")
      ->check(CLI::IsMember({"dark", "light"}));
  app.add_option("--scale", options.scale, "Of text and spacing; 0 = by the size and monitor")
      ->check(CLI::Range(0.0f, 4.0f));
  app.add_option("--font", options.font, "A font file to use where the text font has no glyph");
  app.add_flag("--follow", options.follow, "Keep to the newest token of a run in progress");
  app.add_option("--do", options.commands, "Run a command first (see the palette); repeatable");
  app.add_option("--backend", options.backend, "auto, glfw (window), egl (no display) or null")
      ->check(CLI::IsMember({"auto", "glfw", "egl", "null"}))
      ->capture_default_str();
  app.footer(
      "Keys: arrows move, X swaps A and B, L goes to the most costly lost token, J to the head "
      "where\n"
      "A and B differ most, comma and period move through the run, Ctrl+F searches, F shows all\n"
      "tokens, Ctrl+1..4 choose the layout, Ctrl+K lists every command, F1 every key.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : 2;
  }
  int used = 0;
  const int read =
      std::sscanf(size.c_str(), "%dx%d%n", &options.size.width, &options.size.height, &used);
  KVSCOPE_CHECK(read == 2 && used == static_cast<int>(size.size()) && options.size.width >= 320 &&
                    options.size.height >= 240 && options.size.width <= 16384 &&
                    options.size.height <= 16384,
                ErrorCode::usage, "'" + size + "' is no size of a picture", "--size",
                "write for example 1600x1000; 320x240 to 16384x16384");
  return -1;
}

}  // namespace kvscope::gui
