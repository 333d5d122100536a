// 32 layers x 131,072 tokens: what a long run may cost (specs/performance.md 7 and 9). CPU time is
// measured, so that a busy machine does not fail the test.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <random>

#include "gui_session.h"
#include "kvscope/scene/fate_map.h"
#include "png_file.h"

namespace kvscope::gui {
namespace {

constexpr int layers = 32;
constexpr int tokens = 131072;

template <typename Work>
double cpu_seconds(Work work) {
  const std::clock_t start = std::clock();
  work();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

std::vector<float> random_shares() {
  std::mt19937 draw(5);
  std::vector<float> values(static_cast<std::size_t>(layers) * tokens);
  for (float& value : values) {
    value = static_cast<float>(draw() % 9) / 8;
  }
  return values;
}

TEST(GuiScale, MapFromSharesToPng) {
  std::vector<float> values = random_shares();
  values[5 * static_cast<std::size_t>(tokens) + 81204] = -1;  // lost, whatever the zoom
  ColumnPyramid pyramid;
  const double build =
      cpu_seconds([&] { pyramid = ColumnPyramid(layers, tokens, std::move(values)); });
  Pixels pixels;
  const double raster = cpu_seconds([&] {
    pixels = rasterise_share(pyramid, {0, tokens, 1600, 400, true, true});
  });
  const std::string path =
      (std::filesystem::temp_directory_path() / "kvscope-scale-test.png").string();
  const double png = cpu_seconds([&] { write_png(path, pixels); });
  std::filesystem::remove(path);
  RecordProperty("pyramid_ms", std::to_string(1000 * build));
  RecordProperty("raster_ms", std::to_string(1000 * raster));
  RecordProperty("png_ms", std::to_string(1000 * png));
  std::printf("pyramid %.1f ms, raster %.1f ms, PNG %.1f ms\n", 1000 * build, 1000 * raster,
              1000 * png);
  EXPECT_LT(raster, 0.033) << "one frame while panning";
  EXPECT_LT(build + raster + png, 0.18) << "matplotlib takes 0.18 s";
  EXPECT_EQ(pyramid.minimum(5, 0, tokens), -1);
}

TEST(GuiScale, FramesOfALongRun) {
  kvscope::test::SceneOptions options;
  options.layers = layers;
  options.tokens = tokens;
  options.needle = 81204;
  test::Session session(false, {}, kvscope::test::synthetic_scene(options), {1600, 1000});
  session.frames(4);
  std::vector<double> panned;
  for (int frame = 0; frame < 15; ++frame) {
    State state = session.viewer().state();
    state.first = 1000 * frame;
    state.last = state.first + 60000;
    session.viewer().set_state(state);
    panned.push_back(cpu_seconds([&] { session.frame(); }));
  }
  std::sort(panned.begin(), panned.end());
  std::printf("a frame while panning: median %.1f ms\n", 1000 * panned[panned.size() / 2]);
  EXPECT_LT(panned[panned.size() / 2], 0.033);
  EXPECT_LT(ImGui::GetDrawData()->TotalVtxCount, 200000);
}

}  // namespace
}  // namespace kvscope::gui
