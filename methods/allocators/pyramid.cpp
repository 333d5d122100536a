#include <algorithm>
#include <cmath>

#include "allocators/allocators.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

/// Slots wanted per head before rounding: fractions are not rounded to whole slots first, as in the
/// reference.
double wanted(const Budget& budget, const BudgetScope& scope) {
  if (budget.unit() != Budget::Unit::fraction) {
    return budget.slots_per_head(scope);
  }
  return scope.tokens * budget.fraction();
}

/// Half-to-even, as the reference rounds.
int rounded(double value) {
  return static_cast<int>(std::nearbyint(value));
}

class Pyramid : public Allocator {
 public:
  explicit Pyramid(double beta) : beta_(beta) {}

  Scope scope() const override { return Scope::head; }
  bool by_method() const override { return true; }

  Allocation allocate(const AllocationRequest& request) const override {
    const int layers = static_cast<int>(request.scores.size());
    const int kv_heads = request.scope.kv_heads;
    Allocation allocation(layers, kv_heads, 0);
    for (int layer = 0; layer < layers; ++layer) {
      const int slots = layer_slots(request.first_layer + layer, request.budget, request.scope,
                                    request.protection.count);
      std::fill_n(allocation.slots.begin() + std::ptrdiff_t{layer} * kv_heads, kv_heads, slots);
    }
    return allocation;
  }

  int smallest_grant(const Budget& budget, const BudgetScope& scope,
                     int protected_tokens) const override {
    int smallest = scope.tokens;
    for (int layer = 0; layer < scope.layers; ++layer) {
      smallest = std::min(smallest, layer_slots(layer, budget, scope, protected_tokens));
    }
    return smallest;
  }

 private:
  int layer_slots(int layer, const Budget& budget, const BudgetScope& scope, int window) const {
    const double average = wanted(budget, scope);
    double least = average / beta_;
    double most = 2 * average - least;
    if (most >= scope.tokens - window) {
      most = scope.tokens - window;
      least = 2 * average - most;
    }
    const bool slopes = scope.tokens >= most && most >= least && least >= window;
    if (!slopes || scope.layers == 1) {
      return std::min(rounded(average), scope.tokens);
    }
    return rounded(most - layer * ((most - least) / (scope.layers - 1)));
  }

  double beta_;
};

}  // namespace

std::unique_ptr<Allocator> make_pyramid(double beta) {
  return std::make_unique<Pyramid>(beta);
}

ParameterInfo beta_parameter() {
  return real_parameter("beta", 20, "1..", "",
                        "the deepest layer gets a smaller part (1 / beta of the average)");
}

PieceEntry pyramid_entry() {
  PieceEntry entry;
  entry.info.name = "pyramid";
  entry.info.kind = PieceInfo::Kind::allocator;
  entry.info.summary =
      "slots fall linearly with depth; the scorer's protected tokens are the window";
  entry.info.paper = "Cai et al. 2024 (PyramidKV), arXiv:2406.02069";
  entry.info.departures =
      "kvpress's arithmetic, which is uniform unless the budget exceeds beta windows; a one-layer "
      "model is uniform";
  entry.info.scope = "model";
  entry.info.parameters = {beta_parameter()};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.allocator = make_pyramid(arguments.real("beta"));
  };
  return entry;
}

}  // namespace kvscope::detail
