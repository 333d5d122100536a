// 32 layers x 131,072 tokens, the size of a long run: what its pictures hold. What they cost is
// measured by fate_map_bench.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "gui_session.h"
#include "kvscope/scene/fate_map.h"
#include "png_file.h"

namespace kvscope::gui {
namespace {

constexpr int layers = 32;
constexpr int tokens = 131072;

std::vector<float> random_shares() {
  std::mt19937 draw(5);
  std::vector<float> values(static_cast<std::size_t>(layers) * tokens);
  for (float& value : values) {
    value = static_cast<float>(1 + draw() % 8) / 8;
  }
  return values;
}

TEST(GuiScale, OneLostTokenShowsInTheWholeMap) {
  constexpr int token = 81204;
  constexpr int layer = 5;
  const ShareRaster view{0, tokens, 1600, 400, true, true};
  std::vector<float> values = random_shares();
  const Pixels before = rasterise_share(ColumnPyramid(layers, tokens, values), view);
  values[layer * static_cast<std::size_t>(tokens) + token] = 0;
  const ColumnPyramid pyramid(layers, tokens, std::move(values));
  EXPECT_EQ(pyramid.minimum(layer, 0, tokens), 0);
  const Pixels after = rasterise_share(pyramid, view);
  ASSERT_EQ(before.rgba.size(), after.rgba.size());
  for (int y = 0; y < view.height; ++y) {
    for (int x = 0; x < view.width; ++x) {
      const auto at = 4 * (static_cast<std::size_t>(y) * 1600 + static_cast<std::size_t>(x));
      const bool same = std::equal(before.rgba.begin() + static_cast<std::ptrdiff_t>(at),
                                   before.rgba.begin() + static_cast<std::ptrdiff_t>(at + 4),
                                   after.rgba.begin() + static_cast<std::ptrdiff_t>(at));
      const bool its_row = y * layers / view.height == layer;
      const bool its_column = std::abs(x - token * 1600.0 / tokens) < 2;
      ASSERT_TRUE(same || (its_row && its_column)) << x << ", " << y;
    }
  }
  EXPECT_NE(before.rgba, after.rgba);
  const std::string path =
      (std::filesystem::temp_directory_path() / "kvscope-scale-test.png").string();
  write_png(path, after);
  EXPECT_GT(std::filesystem::file_size(path), 1000U);
  std::filesystem::remove(path);
}

TEST(GuiScale, FramesOfALongRun) {
  kvscope::test::SceneOptions options;
  options.layers = layers;
  options.tokens = tokens;
  options.needle = 81204;
  test::Session session(false, {}, kvscope::test::synthetic_scene(options), {1600, 1000});
  session.frames(4);
  for (int frame = 0; frame < 15; ++frame) {
    State state = session.viewer().state();
    state.first = 1000 * frame;
    state.last = state.first + 60000;
    session.viewer().set_state(state);
    session.frame();
  }
  EXPECT_GT(ImGui::GetDrawData()->TotalVtxCount, 1000);
  EXPECT_LT(ImGui::GetDrawData()->TotalVtxCount, 200000);
}

}  // namespace
}  // namespace kvscope::gui
