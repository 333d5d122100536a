#include <fmt/format.h>
#include <imgui.h>
#include <implot.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <thread>

#include "fonts.h"
#include "kvscope/core/error.h"
#include "kvscope/scene/commands.h"
#include "kvscope/storage/isolated.h"
#include "load.h"
#include "options.h"
#include "png_file.h"
#include "viewer.h"
#include "watch.h"

namespace kvscope::gui {
namespace {

/// ImGui and ImPlot, for as long as there is a back end.
class Contexts {
 public:
  Contexts(const std::string& text, const std::string& font) {
    ImGui::CreateContext();
    ImPlot::CreateContext();
    ImGuiIO& io = ImGui::GetIO();
    io.IniFilename = nullptr;
    io.ConfigErrorRecoveryEnableTooltip = false;
    io.ConfigFlags |= ImGuiConfigFlags_DockingEnable;
    load_fonts(text, font);
  }
  ~Contexts() {
    ImPlot::DestroyContext();
    ImGui::DestroyContext();
  }
  Contexts(const Contexts&) = delete;
  Contexts& operator=(const Contexts&) = delete;
};

int print_checks(const Scene& scene) {
  int failed = 0;
  for (const SceneDecision& entry : scene.decisions) {
    for (const Finding& finding : entry.findings) {
      fmt::print("{:<8} {:<10} {}: {}\n", severity_name(finding.severity), finding.id, entry.title,
                 finding.text);
      failed += finding.severity == Severity::error ? 1 : 0;
    }
  }
  fmt::print("{} decisions checked, {} failed\n", scene.decisions.size(), failed);
  return failed > 0 ? 3 : 0;
}

State starting_state(const Scene& scene, const Options& options) {
  State state = options.state.empty() ? first_state(scene) : from_link(options.state);
  if (!options.theme.empty()) {
    state.theme = options.theme;
  }
  if (!options.find.empty()) {
    state.query = options.find;
    state.token = -1;  // the first match of all
    state = run_command("next_match", scene, state);
  }
  return state;
}

bool has_display() {
  return std::getenv("DISPLAY") != nullptr || std::getenv("WAYLAND_DISPLAY") != nullptr;
}

std::unique_ptr<Backend> make_backend(const Options& options) {
  const bool picture = !options.render.empty();
  std::string name = options.backend;
  if (name == "auto") {
    KVSCOPE_CHECK(picture || has_display(), ErrorCode::unsupported,
                  "there is no display to open a window on", "",
                  "render to a file instead: --render OUT.png, or print --checks");
    name = picture ? "egl" : "glfw";
  }
  if (name == "egl") {
    return make_egl_backend(options.size);
  }
  return name == "null" ? make_null_backend(options.size)
                        : make_glfw_backend(options.size, "kvscope");
}

/// A picture's text grows with it, so that a page of 4K shows what one of 1600 x 1000 does; a
/// window follows its monitor.
float scale_of(const Options& options, const Backend& backend) {
  if (options.scale > 0) {
    return options.scale;
  }
  if (options.render.empty()) {
    return backend.content_scale();
  }
  return std::clamp(std::min(static_cast<float>(options.size.width) / 1600,
                             static_cast<float>(options.size.height) / 1000),
                    0.8f, 3.0f);
}

void draw_frame(Viewer& viewer, Backend& backend) {
  ImGui::NewFrame();
  viewer.frame();
  ImGui::Render();
  backend.end_frame();
}

/// Files that changed are shown as they are now; what is wrong with them is said, not fatal.
void reread(Watch& watch, Viewer& viewer) {
  try {
    if (std::optional<Scene> scene = watch.poll(ImGui::GetTime())) {
      viewer.replace(std::move(*scene));
    }
  } catch (const Error& error) {
    viewer.say("cannot read the files again: " + error.message());
  }
}

/// Draws until the picture is what it will stay.
void settle(Viewer& viewer, Backend& backend) {
  constexpr int settling_frames = 4;  // docking and tables find their sizes in the first frames
  for (int left = settling_frames; left > 0 && backend.begin_frame(); --left) {
    draw_frame(viewer, backend);
    if (viewer.busy()) {  // a picture waits for what it is to show
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      left = settling_frames;
    }
  }
}

void write_picture(const std::string& path, Backend& backend) {
  write_png(path, backend.read_back());
  fmt::print("{}\n", path);
}

/// The folder that several pictures go to; throws Error{io} if it cannot be made.
void make_folder(const std::string& path) {
  std::error_code failure;
  std::filesystem::create_directories(path, failure);
  KVSCOPE_CHECK(!failure && std::filesystem::is_directory(path), ErrorCode::io,
                "cannot make the folder of the pictures: " + failure.message(), path,
                "name a folder that can be made with --render, or one --panel only");
}

int show(const Options& options) {
  const std::vector<const Panel*> only = panels_named(options.panels);
  const FileChecker checker;  // before there are threads
  std::future<Scene> loading = load_scene(options.files, &checker);
  if (options.checks) {
    return print_checks(loading.get());
  }
  Scene scene = loading.get();
  const std::string text(scene.tokens.text_bytes.begin(), scene.tokens.text_bytes.end());
  const Contexts contexts(text, options.font);
  const State state = starting_state(scene, options);
  const std::unique_ptr<Backend> backend = make_backend(options);
  const std::string sidecar =
      scene.capture.path.empty() ? "" : scene.capture.path + ".bookmarks.json";
  Viewer viewer(std::move(scene), state, *backend, scale_of(options, *backend), sidecar);
  for (const std::string& command : options.commands) {
    viewer.run(command);
  }
  viewer.follow(options.follow);
  viewer.use(&checker);
  if (only.size() > 1) {
    make_folder(options.render);
  }
  if (options.render.empty() && options.backend != "null") {
    Watch watch(options.files, &checker);
    while (!viewer.wants_to_quit() && backend->begin_frame()) {
      draw_frame(viewer, *backend);
      reread(watch, viewer);
    }
    return 0;
  }
  if (only.empty()) {
    settle(viewer, *backend);
    if (!options.render.empty()) {
      write_picture(options.render, *backend);
    }
  }
  for (const Panel* panel : only) {
    viewer.show_only(panel);
    settle(viewer, *backend);
    write_picture(
        only.size() == 1
            ? options.render
            : (std::filesystem::path(options.render) / (panel_slug(*panel) + ".png")).string(),
        *backend);
  }
  return 0;
}

}  // namespace
}  // namespace kvscope::gui

int main(int argc, char** argv) {
  kvscope::gui::Options options;
  try {
    const int status = kvscope::gui::parse_options(argc, argv, options);
    return status >= 0 ? status : kvscope::gui::show(options);
  } catch (const kvscope::Error& error) {
    fmt::print(stderr, "error: {}\n", error.message());
    if (!error.where().empty()) {
      fmt::print(stderr, "where: {}\n", error.where());
    }
    if (!error.fix().empty()) {
      fmt::print(stderr, "fix:   {}\n", error.fix());
    }
    return kvscope::exit_status(error);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
