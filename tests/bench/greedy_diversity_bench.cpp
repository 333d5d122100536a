/// Greedy choice of one in five candidates, 90 (layer, head) units at once: SmolLM2's heads at 1k,
/// 4k and 8k candidates. Beside it, the same choice in LibTorch operators, one unit, as a loop over
/// picks.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mv.h>
#include <benchmark/benchmark.h>

#include <cstdint>
#include <limits>

#include "kvscope/kernels/greedy_diversity.h"

namespace {

constexpr int units = 90;
constexpr int head_dim = 64;

/// About normal numbers from a generator of our own.
at::Tensor random_tensor(at::IntArrayRef sizes, std::uint64_t seed) {
  at::Tensor out = at::empty(sizes, at::kFloat);
  float* cell = out.mutable_data_ptr<float>();
  std::uint64_t state = seed * 2654435769U + 1;
  for (std::int64_t at = 0; at < out.numel(); ++at) {
    float sum = -6;
    for (int draw = 0; draw < 12; ++draw) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      sum += static_cast<float>(state >> 40) * (1.0F / 16777216.0F);
    }
    cell[at] = sum;
  }
  return out;
}

void bench_kernel(benchmark::State& state) {
  const auto candidates = state.range(0);
  const int picks = static_cast<int>(candidates / 5);
  const at::Tensor scores = random_tensor({units, candidates}, 1);
  const at::Tensor rows = random_tensor({units, candidates, head_dim}, 2);
  kvscope::GreedyDiversityOptions options;
  options.aggregate = static_cast<kvscope::GreedyDiversityOptions::Aggregate>(state.range(1));
  for (auto _ : state) {
    benchmark::DoNotOptimize(kvscope::greedy_diversity(scores, rows, {}, picks, options));
  }
  state.counters["threads"] = at::get_num_threads();
  // As if every candidate were compared with every pick.
  state.counters["GFLOP/s_dense"] =
      benchmark::Counter(2.0 * units * static_cast<double>(candidates) * picks * head_dim * 1e-9,
                         benchmark::Counter::kIsIterationInvariantRate);
}

void bench_operators(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const auto candidates = state.range(0);
  const at::Tensor scores = random_tensor({candidates}, 1);
  const at::Tensor rows = random_tensor({candidates, head_dim}, 2);
  const at::Tensor unit = rows / rows.norm(2, {-1}, true);
  for (auto _ : state) {
    at::Tensor open = scores.clone();
    at::Tensor red;
    for (std::int64_t pick = 0; pick < candidates / 5; ++pick) {
      const std::int64_t best =
          (red.defined() ? open - 0.5 * red : open).argmax().item<std::int64_t>();
      open.select(0, best).fill_(-std::numeric_limits<double>::infinity());
      const at::Tensor cosine = at::mv(unit, unit[best]);
      red = red.defined() ? at::maximum(red, cosine) : cosine;
    }
    benchmark::DoNotOptimize(open);
  }
}

}  // namespace

BENCHMARK(bench_kernel)
    ->ArgNames({"candidates", "aggregate"})
    ->Args({1024, 0})
    ->Args({4096, 0})
    ->Args({8192, 0})
    ->Args({1024, 1})
    ->Args({4096, 1})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(bench_operators)
    ->ArgName("candidates")
    ->Arg(1024)
    ->Arg(4096)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
