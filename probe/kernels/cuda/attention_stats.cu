#include <cuda_runtime.h>
#include <stdio.h>

#include "kvscope_cuda.h"

namespace {

constexpr int tile = 64;   // queries and keys of one block's tile
constexpr int depth = 32;  // channels in shared memory at a time
constexpr int side = 16;   // threads along keys and along queries; each owns 4 x 4 logits
constexpr int own = tile / side;
constexpr int fold_every = 64;  // tiles between two levels of accumulation

struct Shared {
  float keys[depth][tile + 4];
  float queries[depth][tile + 4];
};

struct Head {
  const float* queries;
  const float* keys;
};

__device__ Head head_of(const kvscope_cuda_attention& a, int64_t query_head) {
  const int64_t kv_head = query_head / (a.query_heads / a.kv_heads);
  return {a.queries + query_head * a.query_head_stride, a.keys + kv_head * a.key_head_stride};
}

__device__ bool sees(const kvscope_cuda_attention& a, int64_t row, int64_t key) {
  const int64_t position = a.first_query + row;
  return row < a.rows && key < a.tokens && key <= position &&
         (a.window == 0 || position - key < a.window);
}

/// Logits of queries first_row .. + 63 against keys first_key .. + 63; thread (x, y) owns keys 4x
/// .. 4x + 3 of queries 4y .. 4y + 3.
__device__ void logits(const kvscope_cuda_attention& a, const Head& head, int64_t first_row,
                       int64_t first_key, Shared& shared, float (&s)[own][own]) {
  const int thread = threadIdx.y * side + threadIdx.x;
  for (int i = 0; i < own; ++i) {
    for (int j = 0; j < own; ++j) {
      s[i][j] = 0;
    }
  }
  for (int64_t channel = 0; channel < a.head_dim; channel += depth) {
    __syncthreads();
    for (int cell = thread; cell < tile * depth; cell += side * side) {
      const int line = cell / depth;
      const int c = cell % depth;
      const bool inside = channel + c < a.head_dim;
      shared.keys[c][line] = inside && first_key + line < a.tokens
                                 ? head.keys[(first_key + line) * a.key_row_stride + channel + c]
                                 : 0.0f;
      shared.queries[c][line] =
          inside && first_row + line < a.rows
              ? head.queries[(first_row + line) * a.query_row_stride + channel + c]
              : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < depth; ++c) {
      float k[own];
      float q[own];
      for (int i = 0; i < own; ++i) {
        k[i] = shared.keys[c][threadIdx.x * own + i];
        q[i] = shared.queries[c][threadIdx.y * own + i];
      }
      for (int i = 0; i < own; ++i) {
        for (int j = 0; j < own; ++j) {
          s[i][j] = fmaf(q[i], k[j], s[i][j]);
        }
      }
    }
  }
  for (int i = 0; i < own; ++i) {
    for (int j = 0; j < own; ++j) {
      s[i][j] *= a.scale;
      if (a.softcap > 0) {
        s[i][j] = a.softcap * tanhf(s[i][j] / a.softcap);
      }
    }
  }
}

/// Query-stationary: LSE (written if `lse_out` is wanted) and entropy in one pass over the keys.
__global__ void __launch_bounds__(side* side)
    row_kernel(const kvscope_cuda_attention a, float* lse_out, float* entropy) {
  __shared__ Shared shared;
  __shared__ float part[3][tile][side];
  const int64_t query_head = blockIdx.y;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * tile;
  const Head head = head_of(a, query_head);
  float largest[own];
  float sum[own];
  float weighted[own];  // sum of exp(s - largest) * (s - largest)
  for (int i = 0; i < own; ++i) {
    largest[i] = -INFINITY;
    sum[i] = 0;
    weighted[i] = 0;
  }
  const int64_t last_row = min(first_row + tile, a.rows) - 1;
  const int64_t end = min(a.tokens, a.first_query + last_row + 1);
  const int64_t begin =
      a.window > 0 ? max(static_cast<int64_t>(0), a.first_query + first_row - a.window + 1) : 0;
  for (int64_t first_key = begin / tile * tile; first_key < end; first_key += tile) {
    float s[own][own];
    logits(a, head, first_row, first_key, shared, s);
    for (int i = 0; i < own; ++i) {
      const int64_t row = first_row + threadIdx.y * own + i;
      for (int j = 0; j < own; ++j) {
        if (!sees(a, row, first_key + threadIdx.x * own + j)) {
          continue;
        }
        if (s[i][j] > largest[i]) {
          const float shift = largest[i] - s[i][j];
          const float rescale = expf(shift);
          weighted[i] = sum[i] > 0 ? (weighted[i] + sum[i] * shift) * rescale : 0.0f;
          sum[i] *= rescale;
          largest[i] = s[i][j];
        }
        const float p = expf(s[i][j] - largest[i]);
        sum[i] += p;
        weighted[i] += p * (s[i][j] - largest[i]);
      }
    }
  }
  for (int i = 0; i < own; ++i) {
    part[0][threadIdx.y * own + i][threadIdx.x] = largest[i];
    part[1][threadIdx.y * own + i][threadIdx.x] = sum[i];
    part[2][threadIdx.y * own + i][threadIdx.x] = weighted[i];
  }
  __syncthreads();
  const int line = threadIdx.y * side + threadIdx.x;
  if (line >= tile || first_row + line >= a.rows) {
    return;
  }
  float best = -INFINITY;
  for (int x = 0; x < side; ++x) {
    best = fmaxf(best, part[0][line][x]);
  }
  float total = 0;
  float total_weighted = 0;
  for (int x = 0; x < side; ++x) {
    if (part[1][line][x] > 0) {
      const float shift = part[0][line][x] - best;
      const float rescale = expf(shift);
      total += part[1][line][x] * rescale;
      total_weighted += (part[2][line][x] + part[1][line][x] * shift) * rescale;
    }
  }
  const int64_t at = query_head * a.rows + first_row + line;
  if (lse_out != nullptr) {
    lse_out[at] = total > 0 ? best + logf(total) : -INFINITY;
  }
  if (entropy != nullptr) {
    entropy[at] = total > 0 ? fmaxf(0.0f, logf(total) - total_weighted / total) : 0.0f;
  }
}

/// Key-stationary: one block owns 64 columns of one query head; no atomics, same bytes every time.
__global__ void __launch_bounds__(side* side)
    column_kernel(const kvscope_cuda_attention a, const float* lse,
                  const kvscope_cuda_population population) {
  __shared__ Shared shared;
  __shared__ float part[3][side][tile];
  const int64_t query_head = blockIdx.y;
  const int64_t first_key = static_cast<int64_t>(blockIdx.x) * tile;
  const Head head = head_of(a, query_head);
  float sums[2][3][own] = {};  // [level][sum, squares, maximum]
  const int64_t first_seen = max(population.first_row, first_key - a.first_query);
  const int64_t end =
      a.window > 0 ? min(a.rows, first_key + tile - 1 + a.window - a.first_query) : a.rows;
  int tiles = 0;
  for (int64_t first_row = first_seen; first_row < end; first_row += tile) {
    float s[own][own];
    logits(a, head, first_row, first_key, shared, s);
    for (int i = 0; i < own; ++i) {
      const int64_t row = first_row + threadIdx.y * own + i;
      const float row_lse = row < a.rows ? lse[query_head * a.rows + row] : 0.0f;
      for (int j = 0; j < own; ++j) {
        const bool seen = sees(a, row, first_key + threadIdx.x * own + j) && row_lse != -INFINITY;
        const float p = seen ? expf(s[i][j] - row_lse) : 0.0f;
        sums[0][0][j] += p;
        sums[0][1][j] += p * p;
        sums[0][2][j] = fmaxf(sums[0][2][j], p);
      }
    }
    if (++tiles % fold_every == 0) {
      for (int j = 0; j < own; ++j) {
        sums[1][0][j] += sums[0][0][j];
        sums[1][1][j] += sums[0][1][j];
        sums[0][0][j] = 0;
        sums[0][1][j] = 0;
      }
    }
  }
  for (int j = 0; j < own; ++j) {
    part[0][threadIdx.y][threadIdx.x * own + j] = sums[0][0][j] + sums[1][0][j];
    part[1][threadIdx.y][threadIdx.x * own + j] = sums[0][1][j] + sums[1][1][j];
    part[2][threadIdx.y][threadIdx.x * own + j] = sums[0][2][j];
  }
  __syncthreads();
  const int line = threadIdx.y * side + threadIdx.x;
  if (line >= tile || first_key + line >= a.tokens) {
    return;
  }
  float sum = 0;
  float squares = 0;
  float largest = 0;
  for (int y = 0; y < side; ++y) {
    sum += part[0][y][line];
    squares += part[1][y][line];
    largest = fmaxf(largest, part[2][y][line]);
  }
  const int64_t at = query_head * a.tokens + first_key + line;
  population.sum[at] = sum;
  population.squares[at] = squares;
  population.largest[at] = largest;
}

int32_t launched(const char* kernel, const kvscope_cuda_attention& a, char* error,
                 int64_t error_size) {
  const cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess) {
    return 0;
  }
  snprintf(
      error, static_cast<size_t>(error_size),
      "%s failed: %s (query heads %lld, KV heads %lld, queries %lld, tokens %lld, head_dim %lld)",
      kernel, cudaGetErrorString(status), static_cast<long long>(a.query_heads),
      static_cast<long long>(a.kv_heads), static_cast<long long>(a.rows),
      static_cast<long long>(a.tokens), static_cast<long long>(a.head_dim));
  return 1;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int32_t kvscope_cuda_abi(void) {
  return KVSCOPE_CUDA_ABI;
}

__attribute__((visibility("default"))) int32_t kvscope_cuda_devices(char* error,
                                                                    int64_t error_size) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    snprintf(error, static_cast<size_t>(error_size), "%s", cudaGetErrorString(status));
    return -1;
  }
  if (count == 0) {
    snprintf(error, static_cast<size_t>(error_size), "no CUDA device");
  }
  return count;
}

__attribute__((visibility("default"))) int32_t kvscope_cuda_attention_stats(
    const kvscope_cuda_attention* arguments, char* error, int64_t error_size) {
  const kvscope_cuda_attention& a = *arguments;
  if (a.rows == 0 || a.tokens == 0) {
    return 0;
  }
  const cudaStream_t stream = static_cast<cudaStream_t>(a.stream);
  const dim3 threads(side, side);
  const auto blocks = [&](int64_t count) {
    return dim3(static_cast<unsigned>((count + tile - 1) / tile),
                static_cast<unsigned>(a.query_heads));
  };
  if (a.lse == nullptr || a.entropy != nullptr) {
    row_kernel<<<blocks(a.rows), threads, 0, stream>>>(a, a.lse == nullptr ? a.lse_out : nullptr,
                                                       a.entropy);
    if (launched("attention row kernel", a, error, error_size) != 0) {
      return 1;
    }
  }
  const float* lse = a.lse != nullptr ? a.lse : a.lse_out;
  for (int32_t i = 0; i < a.population_count; ++i) {
    column_kernel<<<blocks(a.tokens), threads, 0, stream>>>(a, lse, a.population[i]);
    if (launched("attention column kernel", a, error, error_size) != 0) {
      return 1;
    }
  }
  return 0;
}

}  // extern "C"
