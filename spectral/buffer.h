#pragma once

#include <cstddef>
#include <memory>

namespace kvscope::spectral {

/// Doubles on a 64-byte boundary, zero. Pages of a large buffer that are never written cost no
/// memory, so half of a symmetric matrix costs half.
class AlignedDoubles {
 public:
  AlignedDoubles() = default;
  explicit AlignedDoubles(std::size_t count);
  double* data() { return data_; }
  const double* data() const { return data_; }
  std::size_t size() const { return size_; }
  double& operator[](std::size_t i) { return data_[i]; }
  double operator[](std::size_t i) const { return data_[i]; }

 private:
  struct Release {
    void operator()(void* pointer) const;
  };
  std::unique_ptr<void, Release> block_;
  double* data_ = nullptr;
  std::size_t size_ = 0;
};

/// n * m without overflow of int.
inline std::size_t cells(int rows, int columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

}  // namespace kvscope::spectral
