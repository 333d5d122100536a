#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace kvscope::detail {

/// Memory for a model's weights, handed out piece by piece from large blocks in which the system
/// may use huge pages: a decode step reads every weight once, and with pages of 4 KiB a tenth of
/// its time goes into finding them. A block lives as long as a piece of it. Safe from several
/// threads.
class WeightMemory {
 public:
  /// `size` bytes, aligned for any processor; not zeroed. Throws std::bad_alloc.
  std::shared_ptr<std::uint8_t> take(std::size_t size);
  /// An uninitialised tensor on the CPU.
  at::Tensor tensor(at::IntArrayRef sizes, at::ScalarType dtype);

 private:
  std::mutex mutex_;
  std::shared_ptr<std::uint8_t> block_;
  std::size_t block_size_ = 0;
  std::size_t used_ = 0;
};

}  // namespace kvscope::detail
