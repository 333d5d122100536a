// The panels as a person uses them: the ImGui test engine clicks and types on the null back end.
#include <gtest/gtest.h>
#include <imgui_te_context.h>
#include <imgui_te_engine.h>

#include <filesystem>
#include <functional>

#include "gui_session.h"

namespace kvscope::gui {
namespace {

using Script = std::function<void(ImGuiTestContext&, Viewer&)>;

/// Runs one script against a fresh viewer; what the engine reports as an error fails the test.
void play(const Script& script, const State& state = {}) {
  auto session = std::make_unique<test::Session>(false, state, kvscope::test::synthetic_scene(),
                                                 BackendSize{1600, 1000});
  ImGuiTestEngine* engine = ImGuiTestEngine_CreateContext();
  ImGuiTestEngineIO& io = ImGuiTestEngine_GetIO(engine);
  io.ConfigRunSpeed = ImGuiTestRunSpeed_Fast;
  io.ConfigNoThrottle = true;
  io.ConfigVerboseLevel = ImGuiTestVerboseLevel_Error;
  io.ConfigLogToTTY = true;
  ImGuiTestEngine_Start(engine, ImGui::GetCurrentContext());
  ImGuiTest* test = ImGuiTestEngine_RegisterTest(engine, "viewer", "script");
  test->TestFunc = [&](ImGuiTestContext* context) { script(*context, session->viewer()); };
  ImGuiTestEngine_QueueTest(engine, test);
  for (int frame = 0; frame < 20000 && !ImGuiTestEngine_IsTestQueueEmpty(engine); ++frame) {
    session->frame();
    ImGuiTestEngine_PostSwap(engine);
  }
  EXPECT_TRUE(ImGuiTestEngine_IsTestQueueEmpty(engine)) << "the script never ended";
  ImGuiTestEngineResultSummary summary;
  ImGuiTestEngine_GetResultSummary(engine, &summary);
  EXPECT_EQ(summary.CountSuccess, 1);
  ImGuiTestEngine_Stop(engine);
  session.reset();
  ImGuiTestEngine_DestroyContext(engine);
}

TEST(GuiEngine, EveryCommandFromThePalette) {
  play([](ImGuiTestContext& context, Viewer& viewer) {
    for (const Command& command : commands()) {
      if (command.effect != Effect::none) {
        continue;
      }
      const State expected = run_command(command.id, viewer.scene(), viewer.state());
      context.KeyPress(ImGuiMod_Ctrl | ImGuiKey_K);
      context.Yield(2);
      context.KeyCharsReplaceEnter(command.title.c_str());
      context.Yield(2);
      EXPECT_EQ(to_link(viewer.state()), to_link(expected)) << command.id;
    }
  });
}

TEST(GuiEngine, EveryKeyDoesWhatItsCommandDoes) {
  play([](ImGuiTestContext& context, Viewer& viewer) {
    for (const Command& command : commands()) {
      const ImGuiKeyChord chord = chord_of(command.key);
      EXPECT_TRUE(command.key.empty() || chord != 0) << command.key;
      if (chord == 0 || command.effect != Effect::none) {
        continue;
      }
      const State expected = run_command(command.id, viewer.scene(), viewer.state());
      context.KeyPress(chord);
      context.Yield(2);
      EXPECT_EQ(to_link(viewer.state()), to_link(expected)) << command.id << " " << command.key;
    }
  });
}

TEST(GuiEngine, LayoutsAndChoicesByMouse) {
  play([](ImGuiTestContext& context, Viewer& viewer) {
    context.SetRef("kvscope");
    context.ItemClick("Compare");
    EXPECT_EQ(viewer.state().layout, "compare");
    context.ItemClick("Steps");
    EXPECT_EQ(viewer.state().layout, "merge");
    context.ItemClick("Weights");
    EXPECT_EQ(viewer.state().layout, "weights");
    context.ItemClick("Explore");
    EXPECT_EQ(viewer.state().layout, "explore");
    context.ComboClick("##A/2 halves 0.5");
    EXPECT_EQ(viewer.state().a, 1);
    context.ComboClick("##heads/head 1");
    EXPECT_EQ(viewer.state().kv_heads, std::vector<int>{1});
  });
}

TEST(GuiEngine, MapsTextAndHeadsChangeWhatTheyShow) {
  play([](ImGuiTestContext& context, Viewer& viewer) {
    context.SetRef("Layer × token");
    context.ComboClick("##mapA/fates by layer and head");
    EXPECT_EQ(viewer.state().map, "fate");
    context.ItemClick("any loss##A");
    EXPECT_EQ(viewer.state().aggregate, "any");
    context.SetRef("Tokens");
    context.ComboClick("##strip/A against B");
    EXPECT_EQ(viewer.state().strip, "difference");
    context.SetRef("Layer × head");
    context.ComboClick("##value/agreement of A and B (Jaccard)");
    EXPECT_EQ(viewer.state().head_value, "jaccard");
  });
}

TEST(GuiEngine, SearchFindsAndGoesToMatches) {
  play([](ImGuiTestContext& context, Viewer& viewer) {
    context.KeyPress(ImGuiMod_Ctrl | ImGuiKey_F);
    context.Yield(3);
    context.KeyCharsReplaceEnter("w12");
    context.Yield(3);
    EXPECT_EQ(viewer.state().query, "w12");
    context.KeyPress(ImGuiKey_F3);
    context.Yield(2);
    EXPECT_EQ(viewer.state().token, 12);
    context.KeyPress(ImGuiKey_F3);
    context.Yield(2);
    EXPECT_EQ(viewer.state().token, 120);
    context.KeyPress(ImGuiMod_Shift | ImGuiKey_F3);
    context.Yield(2);
    EXPECT_EQ(viewer.state().token, 12);
  });
}

TEST(GuiEngine, UndoAndRedoByKey) {
  play([](ImGuiTestContext& context, Viewer& viewer) {
    const State before = viewer.state();
    context.KeyPress(ImGuiKey_RightArrow);
    context.KeyPress(ImGuiKey_DownArrow);
    context.Yield(2);
    const State after = viewer.state();
    context.KeyPress(ImGuiMod_Ctrl | ImGuiKey_Z);
    context.KeyPress(ImGuiMod_Ctrl | ImGuiKey_Z);
    context.Yield(2);
    EXPECT_EQ(to_link(viewer.state()), to_link(before));
    context.KeyPress(ImGuiMod_Ctrl | ImGuiKey_Y);
    context.KeyPress(ImGuiMod_Ctrl | ImGuiKey_Y);
    context.Yield(2);
    EXPECT_EQ(to_link(viewer.state()), to_link(after));
  });
}

TEST(GuiEngine, ALinkIsCopiedAndOpensTheSameView) {
  play([](ImGuiTestContext& context, Viewer& viewer) {
    context.KeyPress(ImGuiKey_L);
    context.Yield(2);
    const State shown = viewer.state();
    EXPECT_EQ(shown.token, 123);
    context.KeyPress(ImGuiMod_Ctrl | ImGuiMod_Shift | ImGuiKey_C);
    context.Yield(2);
    const char* link = ImGui::GetClipboardText();
    EXPECT_TRUE(link != nullptr && from_link(link) == shown) << (link == nullptr ? "" : link);
  });
}

TEST(GuiEngine, StepsMoveThroughTheRun) {
  State state;
  state.layout = "merge";
  play(
      [](ImGuiTestContext& context, Viewer& viewer) {
        context.SetRef("Steps");
        context.ItemClick("|<");
        EXPECT_EQ(viewer.state().seen, 400);
        EXPECT_TRUE(viewer.state().before);
        context.ItemClick(">|");
        EXPECT_EQ(viewer.state().seen, -1);
      },
      state);
}

}  // namespace
}  // namespace kvscope::gui
