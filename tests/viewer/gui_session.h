#pragma once

#include <gtest/gtest.h>
#include <imgui.h>
#include <imgui_internal.h>
#include <implot.h>

#include <memory>

#include "fonts.h"
#include "synthetic_scene.h"
#include "viewer.h"

namespace kvscope::gui::test {

/// A viewer on a back end without a window. Whatever Dear ImGui complains of fails the test.
class Session {
 public:
  explicit Session(bool picture, const State& state = {},
                   Scene scene = kvscope::test::synthetic_scene(), BackendSize size = {800, 600}) {
    ImGui::CreateContext();
    ImPlot::CreateContext();
    ImGui::GetIO().IniFilename = nullptr;
    ImGui::GetIO().ConfigFlags |= ImGuiConfigFlags_DockingEnable;
    ImGui::GetCurrentContext()->ErrorCallback = [](ImGuiContext*, void*, const char* message) {
      ADD_FAILURE() << "Dear ImGui: " << message;
    };
    load_fonts("");
    backend_ = picture ? make_egl_backend(size) : make_null_backend(size);
    viewer_ = std::make_unique<Viewer>(std::move(scene), state, *backend_);
  }
  ~Session() {
    viewer_.reset();
    backend_.reset();
    ImPlot::DestroyContext();
    ImGui::DestroyContext();
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void frame() {
    backend_->begin_frame();
    ImGui::NewFrame();
    viewer_->frame();
    ImGui::Render();
    backend_->end_frame();
  }
  void frames(int count) {
    for (int index = 0; index < count; ++index) {
      frame();
    }
  }
  void press(ImGuiKey key) {
    ImGui::GetIO().AddKeyEvent(key, true);
    frames(2);
    ImGui::GetIO().AddKeyEvent(key, false);
    frames(2);
  }
  void move(float x, float y) {
    ImGui::GetIO().AddMousePosEvent(x, y);
    frames(2);
  }
  void button(bool down) {
    ImGui::GetIO().AddMouseButtonEvent(0, down);
    frames(2);
  }
  void click(float x, float y) {
    move(x, y);
    button(true);
    button(false);
  }
  Viewer& viewer() { return *viewer_; }
  Backend& backend() { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Viewer> viewer_;
};

}  // namespace kvscope::gui::test
