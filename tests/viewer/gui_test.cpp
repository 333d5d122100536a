#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "gui_session.h"
#include "kvscope/core/error.h"
#include "png_file.h"
#include "sidecar.h"

namespace kvscope::gui {
namespace {

using test::Session;

const char* const layouts[] = {"explore", "compare", "merge", "weights"};

State in_layout(const char* layout) {
  State state;
  state.layout = layout;
  return state;
}

TEST(Gui, KeysRunCommandsAndUndoTakesThemBack) {
  Session session(false);
  session.frames(4);
  const State before = session.viewer().state();
  session.press(ImGuiKey_X);
  EXPECT_EQ(session.viewer().state().a, before.b);
  session.press(ImGuiKey_L);  // the most costly loss of what is now A
  const State after = session.viewer().state();
  session.viewer().undo();
  session.viewer().undo();
  EXPECT_EQ(session.viewer().state(), before);
  session.viewer().redo();
  session.viewer().redo();
  EXPECT_EQ(session.viewer().state(), after);
}

TEST(Gui, ClickOnAMapSelectsTokenAndLayer) {
  Session session(false);
  session.frames(4);
  const ImRect map = ImGui::FindWindowByName("Layer × token")->Rect();
  session.click(map.GetCenter().x, map.Min.y + 0.7f * map.GetHeight());
  const State& state = session.viewer().state();
  EXPECT_TRUE(state.token > 0 || state.layer > 0)
      << "token " << state.token << " layer " << state.layer;
}

TEST(Gui, EveryLayoutDrawsAtEverySize) {
  for (const char* layout : layouts) {
    for (const BackendSize size : {BackendSize{320, 240}, {1000, 700}, {3840, 2160}}) {
      Session session(false, in_layout(layout), kvscope::test::synthetic_scene(), size);
      session.frames(4);
      EXPECT_GT(ImGui::GetDrawData()->TotalVtxCount, 100) << layout;
      EXPECT_LT(ImGui::GetDrawData()->TotalVtxCount, 200000) << layout;
    }
  }
}

TEST(Gui, NothingOneTokenOrNoDecisionDrawsToo) {
  kvscope::test::SceneOptions one;
  one.tokens = 1;
  one.needle = 0;
  Scene undecided = kvscope::test::synthetic_scene();
  undecided.decisions.clear();
  for (const char* layout : layouts) {
    for (const Scene& scene : {Scene{}, undecided, kvscope::test::synthetic_scene(one)}) {
      Session session(false, in_layout(layout), scene);
      session.frames(4);
      EXPECT_GT(ImGui::GetDrawData()->TotalVtxCount, 20) << layout;
    }
  }
}

TEST(Gui, EveryCommandRunsOnEveryKindOfScene) {
  const std::filesystem::path before = std::filesystem::current_path();
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / "kvscope-gui-commands";
  std::filesystem::create_directories(folder);
  std::filesystem::current_path(folder);  // exports go here
  for (const bool empty : {false, true}) {
    Session session(false, {}, empty ? Scene{} : kvscope::test::synthetic_scene());
    session.frames(2);
    for (const Command& command : commands()) {
      session.viewer().run(command.id);
      session.frames(1);
    }
    EXPECT_TRUE(session.viewer().wants_to_quit());
  }
  EXPECT_TRUE(std::filesystem::exists(folder / "kvscope-1.csv"));
  std::filesystem::current_path(before);
  std::filesystem::remove_all(folder);
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

TEST(Gui, OnePanelFillsThePicture) {
  for (const Panel* panel : panels_named({"all"})) {
    Session session(false);
    session.viewer().show_only(panel);
    session.frames(4);
    const ImGuiWindow* window = ImGui::FindWindowByName("##only");
    ASSERT_NE(window, nullptr) << panel->title;
    EXPECT_EQ(window->Size.x, 800) << panel->title;
    EXPECT_EQ(window->Size.y, 600) << panel->title;
    EXPECT_EQ(ImGui::FindWindowByName("kvscope"), nullptr) << "no header beside it";
  }
}

TEST(Gui, PanelsAreFoundByTitleOrSlug) {
  EXPECT_EQ(panels_named({"Layer × token", "layer-token"}).size(), 1u) << "each once";
  EXPECT_EQ(panel_slug(*panels_named({"a against b: difference"})[0]), "a-against-b-difference");
  EXPECT_EQ(panels_named({"spectra"}).size(), 14u);
  EXPECT_EQ(panels_named({"all"}).size(), panels().size());
  EXPECT_THROW(panels_named({"spectrogram"}), Error);
}

TEST(Gui, TheSameSceneGivesTheSamePicture) {
  std::vector<std::uint8_t> first;
  for (int round = 0; round < 2; ++round) {
    Session session(true);
    session.frames(4);
    const std::vector<std::uint8_t> bytes = session.backend().read_back().rgba;
    first = round == 0 ? bytes : first;
    EXPECT_EQ(bytes, first);
  }
}

TEST(Gui, BookmarksAreKeptBesideTheCapture) {
  const std::string path =
      (std::filesystem::temp_directory_path() / "kvscope-gui-test.bookmarks.json").string();
  std::filesystem::remove(path);
  EXPECT_TRUE(load_bookmarks(path, "h").empty());
  const std::vector<Bookmark> made = {{"a place", "", {}}};
  save_bookmarks(path, made, "h");
  EXPECT_EQ(load_bookmarks(path, "h"), made);
  EXPECT_THROW(load_bookmarks(path, "another run"), Error);
  std::filesystem::remove(path);
  EXPECT_THROW(save_bookmarks("/no/such/folder/x.json", made, "h"), Error);
}

TEST(Gui, AGrowingRunKeepsTheViewAndCanBeFollowed) {
  Session session(false);
  session.frames(4);
  session.viewer().run("costliest_loss");
  session.frames(1);
  kvscope::test::SceneOptions longer;
  longer.tokens = 500;
  session.viewer().replace(kvscope::test::synthetic_scene(longer));
  session.frames(2);
  EXPECT_EQ(session.viewer().state().token, 123);
  EXPECT_EQ(session.viewer().scene().token_count(), 500);
  session.viewer().follow(true);
  longer.tokens = 501;
  session.viewer().replace(kvscope::test::synthetic_scene(longer));
  session.frames(2);
  EXPECT_EQ(session.viewer().state().token, 500);
}

TEST(Gui, ATrialWithoutItsProgramSaysSo) {
  EXPECT_THROW(DecideJob("run.capture.h5", "snapkv", "0.2"), Error)
      << "no kvscope lies beside the test";
  EXPECT_THROW(DecideJob("", "snapkv", "0.2"), Error);
}

TEST(Gui, CharactersWithoutAGlyphShowTheirCode) {
  Session session(false);
  session.frames(1);
  ImGui::NewFrame();
  EXPECT_EQ(drawable("plain \xC3\xA4"), "plain \xC3\xA4");
  EXPECT_EQ(drawable("\xF3\xB0\x80\x80"), "<F0000>") << "a private character";
  ImGui::EndFrame();
}

}  // namespace
}  // namespace kvscope::gui
