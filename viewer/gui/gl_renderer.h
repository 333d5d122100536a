#pragma once

#include <map>
#include <string>

#include "backend.h"

namespace kvscope::gui {

/// What the two OpenGL back ends share: ImGui's renderer and the textures of the maps. The context
/// must be current from construction to destruction.
class GlRenderer {
 public:
  GlRenderer();
  ~GlRenderer();
  GlRenderer(const GlRenderer&) = delete;
  GlRenderer& operator=(const GlRenderer&) = delete;

  void begin_frame();
  /// Clears to the theme's background and draws into the bound framebuffer.
  void draw(int width, int height);
  ImTextureID upload(const std::string& slot, const Pixels& pixels);
  /// The bound framebuffer, top row first.
  static Pixels read_back(int width, int height);

 private:
  std::map<std::string, unsigned> textures_;
};

}  // namespace kvscope::gui
