#include "fonts.h"

#include <fmt/format.h>
#include <imgui.h>
#include <imgui_internal.h>
#include <implot.h>

#include <filesystem>
#include <vector>

#include "kvscope/core/error.h"

namespace kvscope::gui {
namespace {

constexpr float text_pixels = 15;
constexpr unsigned first_of_other_scripts = 0x0590;  // Latin, Greek and Cyrillic lie before

constexpr const char* text_fonts[] = {"/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
                                      "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
                                      "/usr/share/fonts/TTF/DejaVuSans.ttf",
                                      "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf"};
constexpr const char* script_fonts[] = {
    "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/usr/share/fonts/truetype/noto/NotoSansArabic-Regular.ttf",
    "/usr/share/fonts/truetype/noto/NotoSansDevanagari-Regular.ttf",
    "/usr/share/fonts/truetype/noto/NotoSansThai-Regular.ttf",
    "/usr/share/fonts/truetype/noto/NotoSansSymbols2-Regular.ttf",
    "/usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf",
    "/usr/share/fonts/opentype/unifont/unifont.otf",
    "/usr/share/fonts/opentype/unifont/unifont_upper.otf",
    "/usr/share/fonts/truetype/unifont/unifont.ttf",
    "/usr/share/fonts/truetype/unifont/unifont_upper.ttf"};

bool present(const char* path) {
  std::error_code failure;
  return std::filesystem::exists(path, failure);
}

template <typename Visit>
void each_character(const std::string& utf8, Visit visit) {
  const char* at = utf8.data();
  const char* end = at + utf8.size();
  while (at < end) {
    unsigned code = 0;
    const int length = std::max(1, ImTextCharFromUtf8(&code, at, end));
    visit(code, std::string_view(at, static_cast<std::size_t>(length)));
    at += length;
  }
}

bool merge(const char* path) {
  ImFontConfig config;
  config.MergeMode = true;
  config.Flags |= ImFontFlags_NoLoadError;
  return ImGui::GetIO().Fonts->AddFontFromFileTTF(path, text_pixels, &config) != nullptr;
}

bool lacks_any(const ImFont* font, const std::vector<unsigned>& wanted) {
  for (const unsigned code : wanted) {
    if (!const_cast<ImFont*>(font)->IsGlyphInFont(static_cast<ImWchar>(code))) {
      return true;
    }
  }
  return false;
}

}  // namespace

void load_fonts(const std::string& text, const std::string& extra) {
  ImFontAtlas* atlas = ImGui::GetIO().Fonts;
  ImFont* font = nullptr;
  for (const char* path : text_fonts) {
    font = font == nullptr && present(path) ? atlas->AddFontFromFileTTF(path, text_pixels) : font;
  }
  if (font == nullptr) {
    font = atlas->AddFontDefault();
  }
  if (!extra.empty()) {
    KVSCOPE_CHECK(present(extra.c_str()) && merge(extra.c_str()), ErrorCode::io,
                  "the font cannot be read", extra, "--font takes a TrueType or OpenType file");
  }
  std::vector<unsigned> wanted;
  each_character(text, [&](unsigned code, std::string_view) {
    if (code >= first_of_other_scripts) {
      wanted.push_back(code);
    }
  });
  for (const char* path : script_fonts) {  // large files: read only for text that needs them
    if (!lacks_any(font, wanted)) {
      break;
    }
    if (present(path)) {
      merge(path);
    }
  }
}

std::string drawable(const std::string& utf8) {
  std::string shown;
  ImFont* font = ImGui::GetFont();
  each_character(utf8, [&](unsigned code, std::string_view bytes) {
    if (code < 0x80 || font->IsGlyphInFont(static_cast<ImWchar>(code))) {
      shown += bytes;
    } else if (code != 0xFE0F && code != 0x200D) {  // how an emoji is drawn, not what it is
      shown += fmt::format("<{:04X}>", code);
    }
  });
  return shown;
}

void apply_theme(const std::string& theme, float scale) {
  const bool dark = theme != "light";
  ImGuiStyle& style = ImGui::GetStyle();
  style = ImGuiStyle();
  ImPlot::GetStyle() = ImPlotStyle();
  if (dark) {
    ImGui::StyleColorsDark();
    ImPlot::StyleColorsDark();
  } else {
    ImGui::StyleColorsLight();
    ImPlot::StyleColorsLight();
  }
  const auto set = [&](ImGuiCol colour, ImVec4 in_dark, ImVec4 in_light) {
    style.Colors[colour] = dark ? in_dark : in_light;
  };
  const ImVec4 bar_dark(0.13f, 0.14f, 0.17f, 1);
  const ImVec4 bar_light(0.90f, 0.91f, 0.93f, 1);
  set(ImGuiCol_WindowBg, ImVec4(0.085f, 0.09f, 0.11f, 1), ImVec4(0.985f, 0.985f, 0.98f, 1));
  for (const ImGuiCol bar :
       {ImGuiCol_TitleBg, ImGuiCol_TitleBgActive, ImGuiCol_Tab, ImGuiCol_TabDimmed}) {
    set(bar, bar_dark, bar_light);
  }
  for (const ImGuiCol tab : {ImGuiCol_TabSelected, ImGuiCol_TabDimmedSelected}) {
    set(tab, ImVec4(0.20f, 0.24f, 0.31f, 1), ImVec4(0.985f, 0.985f, 0.98f, 1));
  }
  set(ImGuiCol_TabSelectedOverline, ImVec4(0.34f, 0.70f, 0.91f, 1), ImVec4(0, 0.45f, 0.70f, 1));
  set(ImGuiCol_TabDimmedSelectedOverline, ImVec4(0.34f, 0.70f, 0.91f, 0.6f),
      ImVec4(0, 0.45f, 0.70f, 0.6f));
  set(ImGuiCol_TextDisabled, ImVec4(0.66f, 0.68f, 0.72f, 1), ImVec4(0.36f, 0.37f, 0.40f, 1));
  set(ImGuiCol_Header, ImVec4(0.17f, 0.31f, 0.45f, 1), ImVec4(0.74f, 0.85f, 0.95f, 1));
  set(ImGuiCol_FrameBg, ImVec4(0.16f, 0.18f, 0.22f, 1), ImVec4(0.92f, 0.93f, 0.95f, 1));
  set(ImGuiCol_TableHeaderBg, bar_dark, bar_light);
  set(ImGuiCol_TableRowBgAlt, ImVec4(1, 1, 1, 0.035f), ImVec4(0, 0, 0, 0.035f));
  style.WindowRounding = 0;
  style.FrameRounding = 3;
  style.TabRounding = 3;
  style.WindowPadding = ImVec2(8, 6);
  style.FramePadding = ImVec2(6, 3);
  style.ItemSpacing = ImVec2(6, 4);
  style.CellPadding = ImVec2(5, 2);
  style.WindowBorderSize = 1;
  style.ScaleAllSizes(scale);
  style.FontSizeBase = text_pixels * scale;
  style._NextFrameFontSizeBase = style.FontSizeBase;  // what makes a change within a frame last
  ImPlotStyle& plot = ImPlot::GetStyle();
  for (ImVec2* size : {&plot.MajorTickLen, &plot.MinorTickLen, &plot.PlotPadding,
                       &plot.LabelPadding, &plot.LegendPadding, &plot.LegendInnerPadding,
                       &plot.LegendSpacing, &plot.MousePosPadding, &plot.AnnotationPadding}) {
    *size = ImVec2(size->x * scale * 0.7f, size->y * scale * 0.7f);
  }
  plot.PlotMinSize = ImVec2(40 * scale, 30 * scale);
}

}  // namespace kvscope::gui
