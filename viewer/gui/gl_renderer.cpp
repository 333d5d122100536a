#include "gl_renderer.h"

#include <GL/gl.h>
#include <GL/glext.h>
#include <imgui_impl_opengl3.h>

#include <algorithm>

#include "kvscope/core/error.h"

namespace kvscope::gui {

GlRenderer::GlRenderer() {
  KVSCOPE_CHECK(ImGui_ImplOpenGL3_Init("#version 330"), ErrorCode::unsupported,
                "OpenGL 3.3 is not available", "", "install a driver, e.g. libgl1-mesa-dri");
}

GlRenderer::~GlRenderer() {
  for (const auto& [slot, texture] : textures_) {
    glDeleteTextures(1, &texture);
  }
  ImGui_ImplOpenGL3_Shutdown();
}

void GlRenderer::begin_frame() {
  ImGui_ImplOpenGL3_NewFrame();
}

void GlRenderer::draw(int width, int height) {
  const ImVec4 background = ImGui::GetStyleColorVec4(ImGuiCol_WindowBg);
  glViewport(0, 0, width, height);
  glClearColor(background.x, background.y, background.z, 1.0f);
  glClear(GL_COLOR_BUFFER_BIT);
  ImGui_ImplOpenGL3_RenderDrawData(ImGui::GetDrawData());
}

ImTextureID GlRenderer::upload(const std::string& slot, const Pixels& pixels) {
  unsigned& texture = textures_[slot];
  if (texture == 0) {
    glGenTextures(1, &texture);
  }
  glBindTexture(GL_TEXTURE_2D, texture);
  glTexParameteri(GL_TEXTURE_2D, GL_TEXTURE_MIN_FILTER, GL_LINEAR);
  glTexParameteri(GL_TEXTURE_2D, GL_TEXTURE_MAG_FILTER, GL_NEAREST);
  glTexImage2D(GL_TEXTURE_2D, 0, GL_RGBA, pixels.width, pixels.height, 0, GL_RGBA, GL_UNSIGNED_BYTE,
               pixels.rgba.data());
  return texture;
}

Pixels GlRenderer::read_back(int width, int height) {
  Pixels pixels{width, height, {}};
  const auto stride = static_cast<std::size_t>(width) * 4;
  pixels.rgba.resize(stride * static_cast<std::size_t>(height));
  glReadPixels(0, 0, width, height, GL_RGBA, GL_UNSIGNED_BYTE, pixels.rgba.data());
  for (int top = 0; top < height / 2; ++top) {  // OpenGL's first row is the lowest
    const auto first = pixels.rgba.begin() + static_cast<std::ptrdiff_t>(stride) * top;
    const auto other =
        pixels.rgba.begin() + static_cast<std::ptrdiff_t>(stride) * (height - 1 - top);
    std::swap_ranges(first, first + static_cast<std::ptrdiff_t>(stride), other);
  }
  for (std::size_t pixel = 3; pixel < pixels.rgba.size(); pixel += 4) {
    pixels.rgba[pixel] = 255;
  }
  return pixels;
}

}  // namespace kvscope::gui
