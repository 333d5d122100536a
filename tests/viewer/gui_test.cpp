#include <gtest/gtest.h>
#include <imgui.h>
#include <imgui_internal.h>
#include <implot.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "fonts.h"
#include "kvscope/core/error.h"
#include "png_file.h"
#include "synthetic_scene.h"
#include "viewer.h"

namespace kvscope::gui {
namespace {

/// A viewer on a back end without a window.
class Session {
 public:
  explicit Session(bool picture, const State& state = {}) {
    ImGui::CreateContext();
    ImPlot::CreateContext();
    ImGui::GetIO().IniFilename = nullptr;
    ImGui::GetCurrentContext()->ErrorCallback = [](ImGuiContext*, void*, const char* message) {
      ADD_FAILURE() << "Dear ImGui: " << message;
    };
    ImGui::GetIO().ConfigFlags |= ImGuiConfigFlags_DockingEnable;
    load_fonts("");
    backend_ = picture ? make_egl_backend({800, 600}) : make_null_backend({800, 600});
    viewer_ = std::make_unique<Viewer>(test::synthetic_scene(), state, *backend_);
  }
  ~Session() {
    viewer_.reset();
    backend_.reset();
    ImPlot::DestroyContext();
    ImGui::DestroyContext();
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void frames(int count) {
    for (int frame = 0; frame < count; ++frame) {
      backend_->begin_frame();
      ImGui::NewFrame();
      viewer_->frame();
      ImGui::Render();
      backend_->end_frame();
    }
  }
  void press(ImGuiKey key) {
    ImGui::GetIO().AddKeyEvent(key, true);
    frames(2);
    ImGui::GetIO().AddKeyEvent(key, false);
    frames(2);
  }
  void click(float x, float y) {
    ImGui::GetIO().AddMousePosEvent(x, y);
    frames(2);
    ImGui::GetIO().AddMouseButtonEvent(0, true);
    frames(2);
    ImGui::GetIO().AddMouseButtonEvent(0, false);
    frames(2);
  }
  Viewer& viewer() { return *viewer_; }
  Backend& backend() { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Viewer> viewer_;
};

TEST(Gui, KeysRunCommandsAndUndoTakesThemBack) {
  Session session(false);
  session.frames(4);
  const State before = session.viewer().state();
  session.press(ImGuiKey_X);
  EXPECT_EQ(session.viewer().state().a, before.b);
  session.press(ImGuiKey_L);  // the most costly loss of what is now A
  session.viewer().undo();
  session.viewer().undo();
  EXPECT_EQ(session.viewer().state(), before);
}

TEST(Gui, ClickOnAMapSelectsTokenAndLayer) {
  Session session(false);
  session.frames(4);
  session.click(250, 370);
  const State& state = session.viewer().state();
  EXPECT_TRUE(state.token > 0 || state.layer > 0)
      << "token " << state.token << " layer " << state.layer;
}

TEST(Gui, EveryLayoutDrawsWithEveryPanel) {
  for (const char* layout : {"explore", "compare", "weights"}) {
    State state;
    state.layout = layout;
    Session session(false, state);
    session.frames(4);
    EXPECT_GT(ImGui::GetDrawData()->TotalVtxCount, 100) << layout;
  }
}

TEST(Gui, PictureHasItsSizeAndManyColours) {
  Session session(true);
  session.frames(4);
  const Pixels pixels = session.backend().read_back();
  ASSERT_EQ(pixels.width, 800);
  ASSERT_EQ(pixels.height, 600);
  std::set<std::uint32_t> colours;
  for (std::size_t at = 0; at + 3 < pixels.rgba.size(); at += 4) {
    colours.insert(static_cast<std::uint32_t>(pixels.rgba[at] | pixels.rgba[at + 1] << 8 |
                                              pixels.rgba[at + 2] << 16));
  }
  EXPECT_GT(colours.size(), 50u);
  const std::string path =
      (std::filesystem::temp_directory_path() / "kvscope-gui-test.png").string();
  write_png(path, pixels);
  std::ifstream file(path, std::ios::binary);
  std::string head(8, '\0');
  file.read(head.data(), 8);
  EXPECT_EQ(head, "\x89PNG\r\n\x1a\n");
  std::filesystem::remove(path);
  EXPECT_THROW(write_png("/no/such/folder/x.png", pixels), Error);
}

}  // namespace
}  // namespace kvscope::gui
