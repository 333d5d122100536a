#include <EGL/egl.h>
#include <EGL/eglext.h>
#include <GL/gl.h>
#include <GL/glext.h>
#include <fmt/format.h>

#include <cstdlib>

#include "gl_renderer.h"
#include "kvscope/core/error.h"

namespace kvscope::gui {
namespace {

[[noreturn]] void refuse(const char* what) {
  throw Error(ErrorCode::unsupported,
              fmt::format("pictures without a display need EGL: {} failed (error {:#x})", what,
                          eglGetError()),
              "", "install libegl1 and libgl1-mesa-dri");
}

/// An OpenGL 3.3 context without any surface.
class EglContext {
 public:
  EglContext() {
    display_ = eglGetPlatformDisplay(EGL_PLATFORM_SURFACELESS_MESA,
                                     reinterpret_cast<void*>(EGL_DEFAULT_DISPLAY), nullptr);
    if (display_ == EGL_NO_DISPLAY || eglInitialize(display_, nullptr, nullptr) == EGL_FALSE) {
      refuse("eglInitialize");
    }
    eglBindAPI(EGL_OPENGL_API);
    const EGLint wanted[] = {EGL_RENDERABLE_TYPE, EGL_OPENGL_BIT, EGL_SURFACE_TYPE, EGL_PBUFFER_BIT,
                             EGL_NONE};
    EGLConfig config = nullptr;
    EGLint count = 0;
    eglChooseConfig(display_, wanted, &config, 1, &count);
    const EGLint version[] = {EGL_CONTEXT_MAJOR_VERSION,
                              3,
                              EGL_CONTEXT_MINOR_VERSION,
                              3,
                              EGL_CONTEXT_OPENGL_PROFILE_MASK,
                              EGL_CONTEXT_OPENGL_CORE_PROFILE_BIT,
                              EGL_NONE};
    context_ =
        eglCreateContext(display_, count > 0 ? config : EGL_NO_CONFIG_KHR, EGL_NO_CONTEXT, version);
    if (context_ == EGL_NO_CONTEXT ||
        eglMakeCurrent(display_, EGL_NO_SURFACE, EGL_NO_SURFACE, context_) == EGL_FALSE) {
      refuse("eglCreateContext (OpenGL 3.3)");
    }
  }
  ~EglContext() {
    eglMakeCurrent(display_, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT);
    eglDestroyContext(display_, context_);
    eglTerminate(display_);
  }
  EglContext(const EglContext&) = delete;
  EglContext& operator=(const EglContext&) = delete;

 private:
  EGLDisplay display_ = EGL_NO_DISPLAY;
  EGLContext context_ = EGL_NO_CONTEXT;
};

class EglBackend final : public Backend {
 public:
  explicit EglBackend(BackendSize size) : size_(size) {
    glGenFramebuffers(1, &framebuffer_);
    glGenRenderbuffers(1, &colours_);
    glBindRenderbuffer(GL_RENDERBUFFER, colours_);
    glRenderbufferStorage(GL_RENDERBUFFER, GL_RGBA8, size.width, size.height);
    glBindFramebuffer(GL_FRAMEBUFFER, framebuffer_);
    glFramebufferRenderbuffer(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_RENDERBUFFER, colours_);
    KVSCOPE_CHECK(
        glCheckFramebufferStatus(GL_FRAMEBUFFER) == GL_FRAMEBUFFER_COMPLETE, ErrorCode::unsupported,
        fmt::format("a picture of {} x {} pixels cannot be drawn", size.width, size.height),
        "--size", "choose a smaller one");
    ImGuiIO& io = ImGui::GetIO();
    io.DisplaySize = ImVec2(static_cast<float>(size.width), static_cast<float>(size.height));
    io.DeltaTime = 1.0f / 60.0f;
  }
  ~EglBackend() override {
    glDeleteFramebuffers(1, &framebuffer_);
    glDeleteRenderbuffers(1, &colours_);
  }

  bool begin_frame() override {
    renderer_.begin_frame();
    return true;
  }
  void end_frame() override {
    glBindFramebuffer(GL_FRAMEBUFFER, framebuffer_);
    renderer_.draw(size_.width, size_.height);
  }
  ImTextureID upload(const std::string& slot, const Pixels& pixels) override {
    return renderer_.upload(slot, pixels);
  }
  Pixels read_back() override { return GlRenderer::read_back(size_.width, size_.height); }

 private:
  BackendSize size_;
  EglContext context_;
  GlRenderer renderer_;
  unsigned framebuffer_ = 0;
  unsigned colours_ = 0;
};

}  // namespace

std::unique_ptr<Backend> make_egl_backend(BackendSize size) {
  return std::make_unique<EglBackend>(size);
}

}  // namespace kvscope::gui
