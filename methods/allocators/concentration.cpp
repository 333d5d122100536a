#include <algorithm>
#include <cmath>
#include <numeric>

#include "allocators/allocators.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

/// Tokens that share a head's score: exp of the entropy of softmax over the candidates' scores, in
/// units of their spread. 1 to the number of candidates.
double effective_tokens(const float* scores, const Protection& protection) {
  std::vector<double> values;
  for (int token = 0; token < protection.tokens(); ++token) {
    if (!protection.covers(token)) {
      values.push_back(static_cast<double>(scores[token]));
    }
  }
  if (values.empty()) {
    return 1;
  }
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) {
    squares += (value - mean) * (value - mean);
  }
  const double deviation = squares > 0 ? std::sqrt(squares / count) : 1;
  const double best = *std::max_element(values.begin(), values.end());
  double sum = 0;
  double weighted = 0;
  for (const double value : values) {
    const double exponent = (value - best) / deviation;
    sum += std::exp(exponent);
    weighted += std::exp(exponent) * exponent;
  }
  return std::exp(std::log(sum) - weighted / sum);
}

/// Whole slots of `total` by weight, at most `most` each: the largest remainders are rounded up, of
/// equal ones the lower head's.
std::vector<int> shared_out(int total, const std::vector<double>& weights, int most) {
  const std::size_t heads = weights.size();
  std::vector<double> ideal(heads, 0.0);
  std::vector<bool> full(heads, false);
  for (bool settled = false; !settled;) {
    settled = true;
    double left = total;
    double open = 0;
    for (std::size_t head = 0; head < heads; ++head) {
      left -= full[head] ? most : 0;
      open += full[head] ? 0 : weights[head];
    }
    for (std::size_t head = 0; head < heads; ++head) {
      ideal[head] = full[head] ? most : left * weights[head] / open;
      if (!full[head] && ideal[head] > most) {
        full[head] = true;
        settled = false;
      }
    }
  }
  std::vector<int> slots(heads);
  std::vector<std::size_t> order(heads);
  std::iota(order.begin(), order.end(), std::size_t{0});
  int given = 0;
  for (std::size_t head = 0; head < heads; ++head) {
    slots[head] = std::min(most, static_cast<int>(std::floor(ideal[head] + 1e-9)));
    given += slots[head];
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return ideal[a] - slots[a] > ideal[b] - slots[b];
  });
  for (std::size_t at = 0; given < total && at < heads; at = (at + 1) % heads) {
    if (slots[order[at]] < most) {
      ++slots[order[at]];
      ++given;
    }
  }
  return slots;
}

class Concentration : public Allocator {
 public:
  Concentration(double floor, bool dispersed) : floor_(floor), dispersed_(dispersed) {}

  Scope scope() const override { return Scope::layer; }

  Allocation allocate(const AllocationRequest& request) const override {
    const Protection& protection = request.protection;
    const int kv_heads = request.scope.kv_heads;
    const int layers = static_cast<int>(request.scores.size());
    const int candidates = protection.tokens() - protection.count;
    const int free =
        std::min(request.budget.slots_per_head(request.scope) - protection.count, candidates);
    const int guaranteed = std::clamp(static_cast<int>(free * floor_), 0, std::max(free, 0));
    Allocation allocation(layers, kv_heads, protection.count + guaranteed);
    for (int layer = 0; layer < layers && free > 0; ++layer) {
      std::vector<double> weights;
      for (int head = 0; head < kv_heads; ++head) {
        const float* scores = request.scores[static_cast<std::size_t>(layer)].data() +
                              std::ptrdiff_t{head} * protection.tokens();
        const double tokens = effective_tokens(scores, protection);
        weights.push_back(dispersed_ ? tokens : 1 / tokens);
      }
      const std::vector<int> more =
          shared_out((free - guaranteed) * kv_heads, weights, candidates - guaranteed);
      for (int head = 0; head < kv_heads; ++head) {
        allocation.slots[static_cast<std::size_t>(layer * kv_heads + head)] +=
            more[static_cast<std::size_t>(head)];
      }
    }
    return allocation;
  }

 private:
  double floor_;
  bool dispersed_;
};

}  // namespace

PieceEntry concentration_entry() {
  PieceEntry entry;
  entry.info.name = "concentration";
  entry.info.kind = PieceInfo::Kind::allocator;
  entry.info.summary =
      "slots of a layer in proportion to how concentrated each head's scores are: a control for "
      "head-wise routing";
  entry.info.paper = "none; alpha's paper rejects head-wise routing it does not define";
  entry.info.departures =
      "our reading: concentration is 1 over the tokens that share a head's score, exp of the "
      "entropy of softmax over its z-scores";
  entry.info.scope = "layer";
  entry.info.parameters = {floor_parameter(), choice_parameter("more", "concentrated|dispersed",
                                                               "which heads get more slots")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.allocator = std::make_unique<Concentration>(arguments.real("floor"),
                                                      arguments.text("more") == "dispersed");
  };
  return entry;
}

}  // namespace kvscope::detail
