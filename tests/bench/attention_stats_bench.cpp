// Column statistics and the forward pass against LibTorch expressions, in one process.
// Counters: GFLOP/s of the products that causality leaves, queries per second.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "kvscope/kernels/attention_stats.h"

namespace {

struct Layer {
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
  at::Tensor lse;
  double scale = 1;
  double products = 0;  ///< causal (query, key) pairs over all heads
};

/// range(0): tokens; range(1): query heads; range(2): KV heads; range(3): head_dim.
Layer make_layer(const benchmark::State& state) {
  const std::int64_t tokens = state.range(0);
  Layer layer;
  layer.queries = at::randn({state.range(1), tokens, state.range(3)});
  layer.keys = at::randn({state.range(2), tokens, state.range(3)});
  layer.values = at::randn({state.range(2), tokens, state.range(3)});
  layer.scale = 1.0 / std::sqrt(static_cast<double>(state.range(3)));
  layer.products = static_cast<double>(state.range(1) * tokens * (tokens + 1)) / 2;
  kvscope::AttentionOptions options;
  options.scale = layer.scale;
  layer.lse =
      kvscope::attention_with_lse(layer.queries, layer.keys, layer.values, {}, {}, options).lse;
  return layer;
}

void count(benchmark::State& state, const Layer& layer, double flop_of_product) {
  using benchmark::Counter;
  const double rounds = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] =
      Counter(rounds * layer.products * flop_of_product * static_cast<double>(state.range(3)) / 1e9,
              Counter::kIsRate);
  state.counters["tokens/s"] =
      Counter(rounds * static_cast<double>(state.range(0)), Counter::kIsRate);
  state.counters["threads"] = at::get_num_threads();
}

void column_pass(benchmark::State& state) {
  const Layer layer = make_layer(state);
  kvscope::AttentionStatsOptions options;
  options.scale = layer.scale;
  options.windows = {32, 64};
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        kvscope::attention_stats(layer.queries, layer.keys, layer.lse, options));
  }
  count(state, layer, 2);
}

void window_only(benchmark::State& state) {
  const Layer layer = make_layer(state);
  kvscope::AttentionStatsOptions options;
  options.scale = layer.scale;
  options.windows = {32, 64};
  options.columns = false;
  options.entropy = false;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        kvscope::attention_stats(layer.queries, layer.keys, layer.lse, options));
  }
  state.counters["tokens/s"] = benchmark::Counter(
      static_cast<double>(state.iterations() * state.range(0)), benchmark::Counter::kIsRate);
}

/// The same columns and entropy in LibTorch operators, 256 queries at a time.
void column_pass_operators(benchmark::State& state) {
  const Layer layer = make_layer(state);
  const std::int64_t tokens = state.range(0);
  const std::int64_t heads = state.range(1);
  const at::Tensor keys = at::repeat_interleave(layer.keys, heads / state.range(2), 0);
  for (auto _ : state) {
    at::Tensor sum = at::zeros({heads, tokens});
    at::Tensor squares = at::zeros({heads, tokens});
    at::Tensor largest = at::zeros({heads, tokens});
    for (std::int64_t first = 0; first < tokens; first += 256) {
      const std::int64_t rows = std::min<std::int64_t>(256, tokens - first);
      const std::int64_t seen = first + rows;
      at::Tensor s =
          at::matmul(layer.queries.narrow(1, first, rows), keys.narrow(1, 0, seen).transpose(1, 2))
              .mul_(layer.scale)
              .sub_(layer.lse.narrow(1, first, rows).unsqueeze(-1));
      s.masked_fill_(at::arange(seen) > at::arange(first, seen).unsqueeze(-1), -1e30);
      const at::Tensor p = s.exp();
      sum.narrow(1, 0, seen).add_(p.sum(1));
      squares.narrow(1, 0, seen).add_((p * p).sum(1));
      largest.narrow(1, 0, seen).copy_(at::maximum(largest.narrow(1, 0, seen), p.amax({1})));
      benchmark::DoNotOptimize((p * s).sum(-1));
    }
    benchmark::DoNotOptimize(sum);
  }
  count(state, layer, 2);
}

void forward(benchmark::State& state) {
  const Layer layer = make_layer(state);
  kvscope::AttentionOptions options;
  options.scale = layer.scale;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        kvscope::attention_with_lse(layer.queries, layer.keys, layer.values, {}, {}, options));
  }
  count(state, layer, 4);
}

/// LibTorch's own flash attention, K and V expanded to the query heads as it needs them.
void forward_operator(benchmark::State& state) {
  const Layer layer = make_layer(state);
  const std::int64_t group = state.range(1) / state.range(2);
  for (auto _ : state) {
    const at::Tensor keys = at::repeat_interleave(layer.keys, group, 0).unsqueeze(0);
    const at::Tensor values = at::repeat_interleave(layer.values, group, 0).unsqueeze(0);
    benchmark::DoNotOptimize(at::_scaled_dot_product_flash_attention_for_cpu(
        layer.queries.unsqueeze(0), keys, values, 0.0, true, {}, layer.scale));
  }
  count(state, layer, 4);
}

/// One query over a cache of range(0) tokens.
void decode(benchmark::State& state) {
  const Layer layer = make_layer(state);
  kvscope::AttentionOptions options;
  options.scale = layer.scale;
  options.first_query = static_cast<int>(state.range(0)) - 1;
  const at::Tensor query = layer.queries.narrow(1, state.range(0) - 1, 1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        kvscope::attention_with_lse(query, layer.keys, layer.values, {}, {}, options));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(layer.keys.nbytes() * 2));
}

void decode_operator(benchmark::State& state) {
  const Layer layer = make_layer(state);
  const std::int64_t group = state.range(1) / state.range(2);
  const at::Tensor query = layer.queries.narrow(1, state.range(0) - 1, 1).unsqueeze(0);
  for (auto _ : state) {
    const at::Tensor keys = at::repeat_interleave(layer.keys, group, 0).unsqueeze(0);
    const at::Tensor values = at::repeat_interleave(layer.values, group, 0).unsqueeze(0);
    benchmark::DoNotOptimize(at::_scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, 0.0, false, {}, layer.scale));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(layer.keys.nbytes() * 2));
}

void sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"tokens", "query_heads", "kv_heads", "head_dim"});
  bench->Args({512, 9, 3, 64})->Args({2048, 9, 3, 64})->Args({4096, 9, 3, 64});
  bench->Args({1024, 32, 8, 128});
  bench->Unit(benchmark::kMillisecond)->UseRealTime();
}

/// The CUDA twin of column_pass; each round waits for the device.
void column_pass_cuda(benchmark::State& state) {
  std::string why_not;
  if (!kvscope::cuda_available(&why_not)) {
    state.SkipWithError(("no CUDA here: " + why_not).c_str());
    return;
  }
  const Layer layer = make_layer(state);
  const at::Tensor queries = layer.queries.cuda();
  const at::Tensor keys = layer.keys.cuda();
  const at::Tensor lse = layer.lse.cuda();
  kvscope::AttentionStatsOptions options;
  options.scale = layer.scale;
  options.windows = {32, 64};
  for (auto _ : state) {
    const kvscope::AttentionStats stats = kvscope::attention_stats(queries, keys, lse, options);
    benchmark::DoNotOptimize(stats.self_check.cpu());
  }
  count(state, layer, 2);
}

BENCHMARK(column_pass_cuda)->Apply(sizes)->Args({8192, 32, 8, 128});
BENCHMARK(column_pass)->Apply(sizes);
BENCHMARK(column_pass_operators)->Apply(sizes);
BENCHMARK(window_only)->Apply(sizes);
BENCHMARK(forward)->Apply(sizes);
BENCHMARK(forward_operator)->Apply(sizes);
BENCHMARK(decode)->Apply(sizes);
BENCHMARK(decode_operator)->Apply(sizes);

}  // namespace
