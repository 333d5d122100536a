#pragma once

#include <stdint.h>

/* What libkvscope_cuda exports: raw device pointers, sizes and a stream, so that neither side needs
   the other's headers. Functions return 0, or nonzero with the kernel, the sizes and CUDA's words
   in `error`. */

#ifdef __cplusplus
extern "C" {
#endif

#define KVSCOPE_CUDA_ABI 1
#define KVSCOPE_CUDA_MAX_POPULATIONS 16

/* Column results over queries first_row and later; each [query_heads, tokens]. */
typedef struct kvscope_cuda_population {
  int64_t first_row;
  float* sum;
  float* squares;
  float* largest;
} kvscope_cuda_population;

typedef struct kvscope_cuda_attention {
  const float* queries; /* [query_heads, rows, head_dim], last axis contiguous */
  int64_t query_head_stride;
  int64_t query_row_stride;
  const float* keys; /* [kv_heads, tokens, head_dim] */
  int64_t key_head_stride;
  int64_t key_row_stride;
  const float* lse; /* [query_heads, rows] natural, given; or null */
  float* lse_out;   /* where it is computed if not given */
  float* entropy;   /* [query_heads, rows] or null */
  int64_t query_heads;
  int64_t kv_heads;
  int64_t rows;
  int64_t tokens;
  int64_t head_dim;
  int64_t first_query;
  int64_t window; /* 0 = none */
  float scale;
  float softcap; /* 0 = none */
  int32_t population_count;
  kvscope_cuda_population population[KVSCOPE_CUDA_MAX_POPULATIONS];
  void* stream; /* cudaStream_t */
} kvscope_cuda_attention;

int32_t kvscope_cuda_abi(void);
/* Devices there are; -1 with a reason where the driver refuses. */
int32_t kvscope_cuda_devices(char* error, int64_t error_size);
int32_t kvscope_cuda_attention_stats(const kvscope_cuda_attention* arguments, char* error,
                                     int64_t error_size);

#ifdef __cplusplus
}
#endif
