#include "weight_memory.h"

#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace kvscope::detail {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::size_t block_bytes = std::size_t{64} << 20;
constexpr std::size_t alignment = 64;  ///< of a cache line and of the widest registers

std::size_t rounded(std::size_t size, std::size_t unit) {
  return (size + unit - 1) / unit * unit;
}

}  // namespace

std::shared_ptr<std::uint8_t> WeightMemory::take(std::size_t size) {
  const std::size_t needed = rounded(std::max<std::size_t>(size, 1), alignment);
  const std::lock_guard lock(mutex_);
  if (block_ == nullptr || block_size_ - used_ < needed) {
    block_size_ = rounded(std::max(needed, block_bytes), huge_page);
    auto* memory = static_cast<std::uint8_t*>(std::aligned_alloc(huge_page, block_size_));
    if (memory == nullptr) {
      throw std::bad_alloc();
    }
    madvise(memory, block_size_, MADV_HUGEPAGE);  // where it cannot be had, small pages serve
    block_ = {memory, [](std::uint8_t* block) { std::free(block); }};
    used_ = 0;
  }
  std::uint8_t* piece = block_.get() + used_;
  used_ += needed;
  return {block_, piece};
}

at::Tensor WeightMemory::tensor(at::IntArrayRef sizes, at::ScalarType dtype) {
  std::size_t elements = 1;
  for (const std::int64_t size : sizes) {
    elements *= static_cast<std::size_t>(size);
  }
  const std::shared_ptr<std::uint8_t> memory = take(elements * c10::elementSize(dtype));
  return at::from_blob(memory.get(), sizes, [memory](void*) {}, at::TensorOptions(dtype));
}

}  // namespace kvscope::detail
