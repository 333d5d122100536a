#include "buffer.h"

#include <cstdint>
#include <cstdlib>
#include <new>

namespace kvscope::spectral {

void AlignedDoubles::Release::operator()(void* pointer) const {
  std::free(pointer);
}

AlignedDoubles::AlignedDoubles(std::size_t count)
    : block_(std::calloc(count * sizeof(double) + 64, 1)), size_(count) {
  if (block_ == nullptr) {
    throw std::bad_alloc();
  }
  const auto address = reinterpret_cast<std::uintptr_t>(block_.get());
  data_ = reinterpret_cast<double*>((address + 63) & ~std::uintptr_t{63});
}

}  // namespace kvscope::spectral
