#include "load.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/spectrum_file.h"

namespace kvscope::gui {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  KVSCOPE_CHECK(file.good(), ErrorCode::io, "the file cannot be read", path,
                "check its name and permissions");
  return text.str();
}

Scene read_all(const std::vector<std::string>& paths) {
  std::optional<CaptureIndex> capture;
  TokenTable tokens;
  std::vector<Decision> decisions;
  std::optional<Spectrum> spectrum;
  std::string answers;
  for (const std::string& path : paths) {
    if (path.ends_with(".json")) {
      answers = path;
      continue;
    }
    switch (file_kind(path)) {
      case FileKind::capture: {
        KVSCOPE_CHECK(!capture, ErrorCode::usage, "two captures were given", path,
                      "open one capture with its decisions");
        const CaptureReader reader(path);
        capture = reader.index();
        tokens = reader.tokens();
        break;
      }
      case FileKind::decision:
        decisions.push_back(read_decision(path));
        break;
      case FileKind::spectrum:
        spectrum = read_spectrum(path);
        break;
      default:
        throw Error(ErrorCode::unsupported, "the viewer does not show this kind of file", path,
                    "give a capture, decisions and a spectrum (.h5)");
    }
  }
  KVSCOPE_CHECK(capture || decisions.empty(), ErrorCode::usage,
                "decisions need the capture they were made on", paths.empty() ? "" : paths.front(),
                "name the X.capture.h5 too");
  KVSCOPE_CHECK(capture || spectrum, ErrorCode::usage, "there is nothing to show", "",
                "name a capture or a spectrum");
  Scene scene = make_scene(capture.value_or(CaptureIndex{}), tokens, std::move(decisions),
                           std::move(spectrum));
  if (!answers.empty()) {
    scene.answers = read_answers(read_text(answers), scene.capture.capture_hash, answers);
  }
  return scene;
}

}  // namespace

std::future<Scene> load_scene(std::vector<std::string> paths) {
  return std::async(std::launch::async, [paths = std::move(paths)] { return read_all(paths); });
}

}  // namespace kvscope::gui
