#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "kvscope/report/compare.h"

namespace kvscope::report {

/// Adds up how two planes of numbers differ, piece by piece.
class ValueDifference {
 public:
  explicit ValueDifference(Tolerance tolerance) : tolerance_(tolerance) {}

  /// `where(cell)` names a cell of this piece; asked once, for the first that differs.
  void add(std::span<const float> a, std::span<const float> b,
           const std::function<std::string(std::size_t cell)>& where) {
    for (std::size_t cell = 0; cell < a.size(); ++cell) {
      const double left = a[cell];
      const double right = b[cell];
      scale_ = std::isfinite(left) ? std::max(scale_, std::abs(left)) : scale_;
      if (equal(left, right)) {
        continue;
      }
      if (count_++ == 0) {
        first_ = where(cell);
      }
      const double apart = std::abs(left - right);
      largest_ = std::isfinite(apart) ? std::max(largest_, apart) : INFINITY;
    }
    total_ += static_cast<std::int64_t>(a.size());
  }

  bool any() const { return count_ > 0; }
  Difference difference(const std::string& what, int layer) const {
    return {what, first_, layer, count_, total_, largest_, scale_ > 0 ? largest_ / scale_ : 0};
  }

 private:
  bool equal(double a, double b) const {
    return a == b || (std::isnan(a) && std::isnan(b)) ||
           std::abs(a - b) <= tolerance_.absolute + tolerance_.relative * std::abs(a);
  }

  Tolerance tolerance_;
  std::string first_;
  std::int64_t count_ = 0;
  std::int64_t total_ = 0;
  double largest_ = 0;
  double scale_ = 0;
};

}  // namespace kvscope::report
