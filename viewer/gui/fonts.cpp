#include "fonts.h"

#include <imgui.h>
#include <implot.h>

#include <filesystem>

namespace kvscope::gui {
namespace {

constexpr const char* text_fonts[] = {"/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
                                      "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
                                      "/usr/share/fonts/TTF/DejaVuSans.ttf",
                                      "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf"};
constexpr const char* script_fonts[] = {"/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
                                        "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
                                        "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
                                        "/usr/share/fonts/truetype/unifont/unifont.ttf"};

const char* first_present(const char* const* begin, const char* const* end) {
  std::error_code failure;
  for (; begin != end; ++begin) {
    if (std::filesystem::exists(*begin, failure)) {
      return *begin;
    }
  }
  return nullptr;
}

}  // namespace

void load_fonts(float pixels) {
  ImFontAtlas* atlas = ImGui::GetIO().Fonts;
  const char* text = first_present(std::begin(text_fonts), std::end(text_fonts));
  if (text == nullptr || atlas->AddFontFromFileTTF(text, pixels) == nullptr) {
    atlas->AddFontDefault();
    return;
  }
  if (const char* script = first_present(std::begin(script_fonts), std::end(script_fonts))) {
    ImFontConfig merge;
    merge.MergeMode = true;
    atlas->AddFontFromFileTTF(script, pixels, &merge);
  }
}

void apply_theme(const std::string& theme) {
  const bool dark = theme != "light";
  ImGuiStyle& style = ImGui::GetStyle();
  if (dark) {
    ImGui::StyleColorsDark();
    ImPlot::StyleColorsDark();
  } else {
    ImGui::StyleColorsLight();
    ImPlot::StyleColorsLight();
  }
  style.Colors[ImGuiCol_WindowBg] =
      dark ? ImVec4(0.085f, 0.09f, 0.11f, 1) : ImVec4(0.985f, 0.985f, 0.98f, 1);
  style.Colors[ImGuiCol_TitleBg] = style.Colors[ImGuiCol_TitleBgActive] =
      dark ? ImVec4(0.12f, 0.13f, 0.16f, 1) : ImVec4(0.91f, 0.92f, 0.93f, 1);
  style.Colors[ImGuiCol_Header] =
      dark ? ImVec4(0.20f, 0.34f, 0.48f, 1) : ImVec4(0.74f, 0.85f, 0.95f, 1);
  style.WindowRounding = 0;
  style.FrameRounding = 3;
  style.WindowPadding = ImVec2(8, 6);
  style.FramePadding = ImVec2(6, 3);
  style.ItemSpacing = ImVec2(6, 4);
  style.WindowBorderSize = 1;
  style.TabRounding = 3;
}

}  // namespace kvscope::gui
