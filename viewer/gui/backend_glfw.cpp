#define GLFW_INCLUDE_NONE
#include <GL/gl.h>
#include <GLFW/glfw3.h>
#include <imgui_impl_glfw.h>

#include "gl_renderer.h"
#include "kvscope/core/error.h"

namespace kvscope::gui {
namespace {

constexpr double idle_seconds = 0.1;  ///< an untouched window redraws ten times a second

GLFWwindow* open_window(BackendSize size, const std::string& title) {
  KVSCOPE_CHECK(glfwInit() == GLFW_TRUE, ErrorCode::unsupported,
                "there is no display to open a window on", "",
                "render to a file instead: --render OUT.png");
  glfwWindowHint(GLFW_CONTEXT_VERSION_MAJOR, 3);
  glfwWindowHint(GLFW_CONTEXT_VERSION_MINOR, 3);
  glfwWindowHint(GLFW_OPENGL_PROFILE, GLFW_OPENGL_CORE_PROFILE);
  GLFWwindow* window = glfwCreateWindow(size.width, size.height, title.c_str(), nullptr, nullptr);
  if (window == nullptr) {
    glfwTerminate();
    throw Error(ErrorCode::unsupported, "no window with OpenGL 3.3 can be opened", "",
                "render to a file instead: --render OUT.png");
  }
  glfwMakeContextCurrent(window);
  glfwSwapInterval(1);
  return window;
}

class GlfwWindow {
 public:
  GlfwWindow(BackendSize size, const std::string& title) : window_(open_window(size, title)) {
    ImGui_ImplGlfw_InitForOpenGL(window_, true);
  }
  ~GlfwWindow() {
    ImGui_ImplGlfw_Shutdown();
    glfwDestroyWindow(window_);
    glfwTerminate();
  }
  GlfwWindow(const GlfwWindow&) = delete;
  GlfwWindow& operator=(const GlfwWindow&) = delete;
  GLFWwindow* get() const { return window_; }

 private:
  GLFWwindow* window_;
};

class GlfwBackend final : public Backend {
 public:
  GlfwBackend(BackendSize size, const std::string& title) : window_(size, title) {}

  bool begin_frame() override {
    glfwWaitEventsTimeout(idle_seconds);
    renderer_.begin_frame();
    ImGui_ImplGlfw_NewFrame();
    return glfwWindowShouldClose(window_.get()) == 0;
  }
  void end_frame() override {
    glfwGetFramebufferSize(window_.get(), &width_, &height_);
    renderer_.draw(width_, height_);
    glfwSwapBuffers(window_.get());
  }
  ImTextureID upload(const std::string& slot, const Pixels& pixels) override {
    return renderer_.upload(slot, pixels);
  }
  Pixels read_back() override {
    glReadBuffer(GL_FRONT);  // the back buffer is undefined once it was shown
    Pixels pixels = GlRenderer::read_back(width_, height_);
    glReadBuffer(GL_BACK);
    return pixels;
  }
  float content_scale() const override {
    float x = 1;
    float y = 1;
    glfwGetWindowContentScale(window_.get(), &x, &y);
    return x;
  }

 private:
  GlfwWindow window_;
  GlRenderer renderer_;
  int width_ = 0;
  int height_ = 0;
};

}  // namespace

std::unique_ptr<Backend> make_glfw_backend(BackendSize size, const std::string& title) {
  return std::make_unique<GlfwBackend>(size, title);
}

}  // namespace kvscope::gui
