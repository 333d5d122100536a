#pragma once

#include <imgui.h>

#include <memory>
#include <string>

#include "kvscope/scene/raster.h"

namespace kvscope::gui {

/// Where frames go: a window (glfw), a picture without a display (egl), or nowhere (null, for
/// tests).
class Backend {
 public:
  virtual ~Backend() = default;
  /// Starts a frame; false when the window was closed.
  virtual bool begin_frame() = 0;
  /// Draws what ImGui recorded since.
  virtual void end_frame() = 0;
  /// A texture of these pixels; an old one of the same `slot` is replaced.
  virtual ImTextureID upload(const std::string& slot, const Pixels& pixels) = 0;
  /// The last frame. Throws Error{unsupported} where there is no picture.
  virtual Pixels read_back() = 0;
  /// How much larger than usual the monitor wants its text.
  virtual float content_scale() const { return 1; }
};

struct BackendSize {
  int width = 1600;
  int height = 1000;
};

/// A window. Throws Error{unsupported} without a display.
std::unique_ptr<Backend> make_glfw_backend(BackendSize size, const std::string& title);
/// An offscreen OpenGL 3.3 context through EGL. Throws Error{unsupported} saying what is missing.
std::unique_ptr<Backend> make_egl_backend(BackendSize size);
std::unique_ptr<Backend> make_null_backend(BackendSize size);

}  // namespace kvscope::gui
