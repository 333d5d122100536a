/// The map of 32 layers x 131,072 tokens, as a picture of 1600 x 400: what a long run costs once
/// (its pyramid) and for each frame while somebody pans (its pixels; by the mean, and by the worst
/// cell).
#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "kvscope/scene/raster.h"

namespace {

constexpr int layers = 32;
constexpr int tokens = 131072;

std::vector<float> shares() {
  std::vector<float> values(static_cast<std::size_t>(layers) * tokens);
  std::uint64_t state = 5;
  for (float& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<float>((state >> 33) % 9) / 8;
  }
  return values;
}

void bench_pyramid(benchmark::State& state) {
  const std::vector<float> values = shares();
  for (auto _ : state) {
    benchmark::DoNotOptimize(kvscope::ColumnPyramid(layers, tokens, values));
  }
}
BENCHMARK(bench_pyramid)->Unit(benchmark::kMillisecond);

void bench_frame(benchmark::State& state) {
  const kvscope::ColumnPyramid pyramid(layers, tokens, shares());
  const auto shown = static_cast<int>(state.range(0));
  const bool worst = state.range(1) != 0;
  int first = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        kvscope::rasterise_share(pyramid, {first, first + shown, 1600, 400, worst, true}));
    first = first + shown + 1000 < tokens ? first + 1000 : 0;
  }
}
BENCHMARK(bench_frame)
    ->ArgNames({"tokens", "worst"})
    ->ArgsProduct({{60000, tokens}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
