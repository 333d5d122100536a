// cuSOLVER behind the C boundary of kvscope_cusolver.h. Batched matrices go to syevBatched
// directly: frameworks' dispatchers loop over them one by one for n > 32.
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include <cstdio>
#include <vector>

#include "kvscope_cusolver.h"

namespace {

/// Device memory that frees itself.
class Device {
 public:
  Device() = default;
  ~Device() { cudaFree(pointer_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  cudaError_t allocate(std::size_t bytes) { return cudaMalloc(&pointer_, bytes > 0 ? bytes : 1); }
  template <typename T>
  T* as() {
    return static_cast<T*>(pointer_);
  }

 private:
  void* pointer_ = nullptr;
};

/// Stream, handle and parameters of one call.
class Context {
 public:
  ~Context() {
    if (parameters != nullptr) {
      cusolverDnDestroyParams(parameters);
    }
    if (handle != nullptr) {
      cusolverDnDestroy(handle);
    }
    if (stream != nullptr) {
      cudaStreamDestroy(stream);
    }
  }
  cudaStream_t stream = nullptr;
  cusolverDnHandle_t handle = nullptr;
  cusolverDnParams_t parameters = nullptr;
};

class Failure {
 public:
  Failure(char* text, std::int64_t size) : text_(text), size_(size) {}
  bool operator()(cudaError_t code, const char* what) {
    return report(code == cudaSuccess, what, cudaGetErrorString(code));
  }
  bool operator()(cusolverStatus_t code, const char* what) {
    return report(code == CUSOLVER_STATUS_SUCCESS, what, "cuSOLVER status", static_cast<int>(code));
  }

 private:
  bool report(bool good, const char* what, const char* why, int number = 0) {
    if (!good && text_ != nullptr && size_ > 0) {
      std::snprintf(text_, static_cast<std::size_t>(size_), "%s: %s %d", what, why, number);
    }
    return !good;
  }
  char* text_;
  std::int64_t size_;
};

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int32_t kvscope_cusolver_abi(void) {
  return KVSCOPE_CUSOLVER_ABI;
}

__attribute__((visibility("default"))) int32_t kvscope_cusolver_devices(char* error,
                                                                        int64_t error_size) {
  int count = 0;
  Failure failed(error, error_size);
  return failed(cudaGetDeviceCount(&count), "counting devices") ? 0 : count;
}

__attribute__((visibility("default"))) int32_t kvscope_cusolver_eigenvalues(
    int32_t device, int32_t n, int32_t batch, const double* matrices, double* values,
    int32_t* converged, char* error, int64_t error_size) {
  Failure failed(error, error_size);
  const auto size = static_cast<std::size_t>(n);
  const auto count = static_cast<std::size_t>(batch);
  Context context;
  Device a;
  Device w;
  Device info;
  if (failed(cudaSetDevice(device), "choosing the device") ||
      failed(cudaStreamCreateWithFlags(&context.stream, cudaStreamNonBlocking), "a stream") ||
      failed(cusolverDnCreate(&context.handle), "cusolverDnCreate") ||
      failed(cusolverDnSetStream(context.handle, context.stream), "cusolverDnSetStream") ||
      failed(cusolverDnCreateParams(&context.parameters), "cusolverDnCreateParams") ||
      failed(a.allocate(size * size * count * sizeof(double)), "memory for the matrices") ||
      failed(w.allocate(size * count * sizeof(double)), "memory for the eigenvalues") ||
      failed(info.allocate(count * sizeof(int)), "memory for the states") ||
      failed(cudaMemcpyAsync(a.as<double>(), matrices, size * size * count * sizeof(double),
                             cudaMemcpyHostToDevice, context.stream),
             "copying the matrices")) {
    return 1;
  }
  std::size_t device_bytes = 0;
  std::size_t host_bytes = 0;
  if (failed(cusolverDnXsyevBatched_bufferSize(
                 context.handle, context.parameters, CUSOLVER_EIG_MODE_NOVECTOR,
                 CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F, a.as<double>(), n, CUDA_R_64F,
                 w.as<double>(), CUDA_R_64F, &device_bytes, &host_bytes, batch),
             "cusolverDnXsyevBatched_bufferSize")) {
    return 1;
  }
  Device workspace;
  std::vector<char> host_workspace(host_bytes);
  std::vector<int> states(count);
  if (failed(workspace.allocate(device_bytes), "work space") ||
      failed(cusolverDnXsyevBatched(context.handle, context.parameters, CUSOLVER_EIG_MODE_NOVECTOR,
                                    CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F, a.as<double>(), n,
                                    CUDA_R_64F, w.as<double>(), CUDA_R_64F, workspace.as<void>(),
                                    device_bytes, host_workspace.data(), host_bytes, info.as<int>(),
                                    batch),
             "cusolverDnXsyevBatched") ||
      failed(cudaMemcpyAsync(values, w.as<double>(), size * count * sizeof(double),
                             cudaMemcpyDeviceToHost, context.stream),
             "copying the eigenvalues") ||
      failed(cudaMemcpyAsync(states.data(), info.as<int>(), count * sizeof(int),
                             cudaMemcpyDeviceToHost, context.stream),
             "copying the states") ||
      failed(cudaStreamSynchronize(context.stream), "waiting for the device")) {
    return 1;
  }
  for (std::size_t i = 0; i < count; ++i) {
    converged[i] = states[i] == 0 ? 1 : 0;
  }
  return 0;
}

}  // extern "C"
