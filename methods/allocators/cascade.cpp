#include "allocators/cascade.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "allocators/allocators.h"
#include "kvscope/core/error.h"
#include "registry/entry.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Adds `amount` (or takes it away) in equal parts to the layers that `open` names, the remainder
/// one each to the first of them.
template <typename Open>
void spread(std::vector<int>& slots, int amount, const Open& open) {
  std::vector<std::size_t> layers;
  for (std::size_t layer = 0; layer < slots.size(); ++layer) {
    if (open(slots[layer])) {
      layers.push_back(layer);
    }
  }
  if (layers.empty()) {
    return;
  }
  const int count = static_cast<int>(layers.size());
  const int sign = amount < 0 ? -1 : 1;
  const int each = std::abs(amount) / count;
  const int rest = std::abs(amount) % count;
  for (int at = 0; at < count; ++at) {
    slots[layers[static_cast<std::size_t>(at)]] += sign * (each + (at < rest ? 1 : 0));
  }
}

class Cascade : public Allocator {
 public:
  explicit Cascade(const CascadeOptions& options) : options_(options) {}

  Scope scope() const override { return Scope::model; }
  bool by_method() const override { return true; }
  bool measures() const override { return true; }
  int queries_needed(int) const override { return options_.window; }

  /// dispersion^(1 / tau1) * shift^(1 / tau2) of the newest queries' attention to older tokens.
  double measure(const LayerEvidence& evidence) const override {
    const int candidates = live_slots(evidence) - options_.window;
    if (candidates <= 0) {
      return 1;
    }
    const at::Tensor rows = columns(evidence.attention(options_.window), candidates);
    const double dispersion = -(rows * (rows + 1e-10).log()).sum(at::kDouble).item<double>();
    const at::Tensor centred = rows - rows.mean(1, /*keepdim=*/true);
    const double shift = centred.square().sum(at::kDouble).item<double>() / (options_.window - 1);
    const double weight =
        std::pow(dispersion, 1 / options_.tau1) * std::pow(shift, 1 / options_.tau2);
    KVSCOPE_CHECK(std::isfinite(weight), ErrorCode::failed,
                  "the attention of the newest queries holds NaN or infinity",
                  fmt::format("layer {}", evidence.moment().layer),
                  "check the capture for NaN in keys and queries: kvscope check");
    return weight;
  }

  Allocation allocate(const AllocationRequest& request) const override {
    const int layers = static_cast<int>(request.measured.size());
    const int kv_heads = request.scope.kv_heads;
    const int each = request.budget.slots_per_head(request.scope) - request.protection.count;
    const double sum = std::accumulate(request.measured.begin(), request.measured.end(), 0.0);
    const int total = each * layers;
    std::vector<double> shares;
    for (const double weight : request.measured) {
      shares.push_back(sum > 0 ? weight / sum * total : each);
    }
    const int most = request.scope.tokens - request.protection.count;
    const std::vector<int> free = adjusted_slots(shares, total, most);
    Allocation allocation(layers, kv_heads, request.protection.count);
    for (int layer = 0; layer < layers; ++layer) {
      const int more = std::clamp(free[static_cast<std::size_t>(layer)], 0, most);
      for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
        allocation.slots[static_cast<std::size_t>(layer * kv_heads + kv_head)] += more;
      }
    }
    return allocation;
  }

 private:
  CascadeOptions options_;
};

}  // namespace

std::vector<int> adjusted_slots(const std::vector<double>& shares, int total, int most) {
  std::vector<int> slots;
  int above = 0;
  for (const double share : shares) {
    const int whole = static_cast<int>(share);
    above += std::max(whole - most, 0);
    slots.push_back(std::min(whole, most));
  }
  const auto below = [most](int count) { return count < most; };
  spread(slots, above, below);
  const int missing = total - std::accumulate(slots.begin(), slots.end(), 0);
  if (missing > 0) {
    spread(slots, missing, below);
  } else if (missing < 0) {
    spread(slots, missing, [](int count) { return count > 1; });
  }
  return slots;
}

std::unique_ptr<Allocator> make_cascade(const CascadeOptions& options) {
  return std::make_unique<Cascade>(options);
}

std::vector<ParameterInfo> cascade_parameters() {
  return {real_parameter("tau1", 1, "0.01..", "",
                         "layers differ less by how widely their attention spreads"),
          real_parameter("tau2", 1, "0.01..", "",
                         "layers differ less by how much their attention varies")};
}

PieceEntry cascade_entry() {
  PieceEntry entry;
  entry.info.name = "cascade";
  entry.info.kind = PieceInfo::Kind::allocator;
  entry.info.summary =
      "layers whose newest queries spread their attention, and shift it, get more slots";
  entry.info.paper = "Qin et al. 2025 (CAKE), arXiv:2503.12491";
  entry.info.departures =
      "one allocation when every layer is read; the authors repeat it after each layer, which "
      "comes to the same up to rounding; the scorer's protected tokens are outside the shares";
  entry.info.scope = "model";
  entry.info.parameters = {
      integer_parameter("window", 32, "2..", "queries", "more of the newest queries are measured")};
  for (ParameterInfo& parameter : cascade_parameters()) {
    entry.info.parameters.push_back(std::move(parameter));
  }
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.allocator =
        make_cascade({arguments.integer("window"), arguments.real("tau1"), arguments.real("tau2")});
  };
  return entry;
}

}  // namespace kvscope::detail
