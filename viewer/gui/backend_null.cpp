#include "backend.h"
#include "kvscope/core/error.h"

namespace kvscope::gui {
namespace {

/// Lays everything out and draws nothing.
class NullBackend final : public Backend {
 public:
  explicit NullBackend(BackendSize size) {
    ImGuiIO& io = ImGui::GetIO();
    io.DisplaySize = ImVec2(static_cast<float>(size.width), static_cast<float>(size.height));
    io.DeltaTime = 1.0f / 60.0f;
    io.BackendFlags |= ImGuiBackendFlags_RendererHasTextures;
  }
  bool begin_frame() override { return true; }
  void end_frame() override {
    for (ImTextureData* texture : ImGui::GetPlatformIO().Textures) {
      if (texture->Status == ImTextureStatus_WantDestroy) {
        texture->SetStatus(ImTextureStatus_Destroyed);
      } else if (texture->Status != ImTextureStatus_OK) {
        texture->SetTexID(1);
        texture->SetStatus(ImTextureStatus_OK);
      }
    }
  }
  ImTextureID upload(const std::string&, const Pixels&) override { return 1; }
  Pixels read_back() override {
    throw Error(ErrorCode::unsupported, "the null back end has no picture", "--backend null",
                "use --backend egl");
  }
};

}  // namespace

std::unique_ptr<Backend> make_null_backend(BackendSize size) {
  return std::make_unique<NullBackend>(size);
}

}  // namespace kvscope::gui
