#pragma once

#include <cstdint>

#ifdef __cplusplus
extern "C" {
#endif

/* The C boundary of libkvscope_cusolver.so, opened on demand: raw pointers and sizes only. */

#define KVSCOPE_CUSOLVER_ABI 1

/* KVSCOPE_CUSOLVER_ABI as the library was compiled. */
int32_t kvscope_cusolver_abi(void);

/* Number of devices with float64; 0 with a reason in `error`. */
int32_t kvscope_cusolver_devices(char* error, int64_t error_size);

/* Eigenvalues, ascending, of `batch` symmetric column-major matrices [n, n] one after another,
   lower triangles given, all on the host: values [batch, n]. `converged` [batch] is 1 or 0. Returns
   0, or nonzero with a message in `error`. */
int32_t kvscope_cusolver_eigenvalues(int32_t device, int32_t n, int32_t batch,
                                     const double* matrices, double* values, int32_t* converged,
                                     char* error, int64_t error_size);

#ifdef __cplusplus
}
#endif
