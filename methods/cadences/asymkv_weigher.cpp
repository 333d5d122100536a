#include "cadences/weighers.h"

namespace kvscope::detail {
namespace {

/// Keeps the quotient finite where both gradients vanish; the key then shrinks towards zero, as in
/// the authors' code.
constexpr double epsilon = 1e-21;

/// Each channel of each key by the square of its loss gradient, a diagonal Fisher estimate.
class SquaredGradients final : public PairWeigher {
 public:
  explicit SquaredGradients(KeyGradient gradient) : gradient_(gradient) {}

  KeyGradient gradient() const override { return gradient_; }

  void look(const ChunkView& view) override {
    keys_ = view.evidence.keys(Frame::pre_rope).cpu().to(at::kDouble).contiguous();
    gradients_ = view.evidence.key_gradient().cpu().to(at::kDouble).contiguous();
  }

  MergedRun weigh(const ChunkView& view, int kv_head, int first, int count) override {
    const auto dim = keys_.size(2);
    const auto row = [&](const at::Tensor& rows, int member) {
      return rows.const_data_ptr<double>() +
             (kv_head * rows.size(1) + view.sink + first + member) * dim;
    };
    MergedRun run;
    run.weight.resize(static_cast<std::size_t>(count), 0.0);
    for (std::int64_t channel = 0; channel < dim; ++channel) {
      double key = 0;
      double total = epsilon;
      for (int member = 0; member < count; ++member) {
        const double gradient = row(gradients_, member)[channel];
        key += gradient * gradient * row(keys_, member)[channel];
        total += gradient * gradient;
      }
      run.key.push_back(static_cast<float>(key / total));
      for (int member = 0; member < count; ++member) {
        const double gradient = row(gradients_, member)[channel];
        run.weight[static_cast<std::size_t>(member)] +=
            gradient * gradient / total / static_cast<double>(dim);
      }
    }
    return run;
  }

  std::unique_ptr<PairWeigher> clone() const override {
    return std::make_unique<SquaredGradients>(gradient_);
  }

 private:
  KeyGradient gradient_;
  at::Tensor keys_;       ///< [kv_heads, slots, head_dim] of the layer at hand
  at::Tensor gradients_;  ///< likewise
};

}  // namespace

std::unique_ptr<PairWeigher> make_squared_gradients(KeyGradient gradient) {
  return std::make_unique<SquaredGradients>(gradient);
}

}  // namespace kvscope::detail
