#include "cadences/curvature_blocks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>

#include <cmath>

namespace kvscope::detail {
namespace {

constexpr double epsilon = 1e-21;

/// Values of the mid slots [mid, head_dim] on the host: stored sums, or means.
class MidValues {
 public:
  MidValues(const ChunkView& view, int kv_head, bool means) {
    const at::Tensor stored =
        view.evidence.values().select(0, kv_head).cpu().to(at::kDouble).contiguous();
    dim_ = stored.size(1);
    const double* from = stored.const_data_ptr<double>() + view.sink * dim_;
    values_.reserve(static_cast<std::size_t>(view.mid() * dim_));
    for (int slot = 0; slot < view.mid(); ++slot) {
      const double scale = means ? 1.0 / view.multiplicity(kv_head, view.sink + slot) : 1.0;
      for (std::int64_t c = 0; c < dim_; ++c) {
        values_.push_back(scale * *from++);
      }
    }
  }
  std::int64_t dim() const { return dim_; }
  const double* row(int slot) const { return values_.data() + slot * dim_; }
  /// sum over slots of share * value: [head_dim]
  std::vector<double> weighted(const std::vector<double>& share) const {
    std::vector<double> sum(static_cast<std::size_t>(dim_), 0.0);
    for (int slot = 0; slot < static_cast<int>(share.size()); ++slot) {
      const double weight = share[static_cast<std::size_t>(slot)];
      for (std::int64_t c = 0; c < dim_; ++c) {
        sum[static_cast<std::size_t>(c)] += weight * row(slot)[c];
      }
    }
    return sum;
  }

 private:
  std::int64_t dim_ = 0;
  std::vector<double> values_;
};

std::vector<double> to_vector(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

void add(std::vector<double>& sum, const at::Tensor& part, double share) {
  const std::vector<double> values = to_vector(part);
  sum.resize(values.size(), 0.0);
  for (std::size_t i = 0; i < values.size(); ++i) {
    sum[i] += share * values[i];
  }
}

/// What one query head's queries see, in float64.
struct HeadView {
  at::Tensor share;   ///< [queries, mid] attention
  at::Tensor values;  ///< [mid, head_dim] means
  at::Tensor output;  ///< [queries, head_dim] attention output over all slots
};

/// Calls `body(query_head, HeadView)` for the group of a KV head.
template <typename Body>
void for_group(const ChunkView& view, int kv_head, const Body& body) {
  const LayerEvidence& evidence = view.evidence;
  const SlotTable& table = evidence.slots();
  const at::Tensor attention = evidence.attention(view.queries);
  at::Tensor values = evidence.values().select(0, kv_head).to(at::kDouble).clone();
  for (int slot = 0; slot < table.slots; ++slot) {
    values.select(0, slot).div_(view.multiplicity(kv_head, slot));
  }
  const int group = evidence.shape().group_size();
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const at::Tensor rows = attention.select(0, head).to(at::kDouble);
    body(head, HeadView{rows.narrow(1, view.sink, view.mid()),
                        values.narrow(0, view.sink, view.mid()), at::matmul(rows, values)});
  }
}

at::Tensor left_of(const at::Tensor& slots) {
  return slots.narrow(-1, 0, slots.size(-1) - 1);
}
at::Tensor right_of(const at::Tensor& slots) {
  return slots.narrow(-1, 1, slots.size(-1) - 1);
}

}  // namespace

std::vector<double> attention_shares(const ChunkView& view, int kv_head) {
  const int group = view.evidence.shape().group_size();
  std::vector<double> share(static_cast<std::size_t>(view.mid()), 0.0);
  double total = epsilon;
  for (int slot = 0; slot < view.mid(); ++slot) {
    double& here = share[static_cast<std::size_t>(slot)];
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      here += view.mass_of(head, view.sink + slot) / group;
    }
    total += here;
  }
  for (double& value : share) {
    value /= total;
  }
  return share;
}

CurvatureBlocks residual_proxy(const ChunkView& view, int kv_head, bool mean_values) {
  CurvatureBlocks blocks{attention_shares(view, kv_head), {}, {}};
  const MidValues values(view, kv_head, mean_values);
  const std::vector<double> output = values.weighted(blocks.alpha);
  for (int slot = 0; slot < view.mid(); ++slot) {
    double deviation = 0;
    for (std::int64_t c = 0; c < values.dim(); ++c) {
      deviation += std::abs(values.row(slot)[c] - output[static_cast<std::size_t>(c)]);
    }
    const double alpha = blocks.alpha[static_cast<std::size_t>(slot)];
    blocks.diagonal.push_back(alpha * (1 - 2 * alpha) * deviation);
  }
  return blocks;
}

std::vector<double> factorised_cross(const std::vector<double>& alpha,
                                     const std::vector<double>& diagonal) {
  std::vector<double> cross;
  for (std::size_t i = 0; i + 1 < alpha.size(); ++i) {
    cross.push_back(alpha[i + 1] * diagonal[i] / (1 - 2 * alpha[i]) +
                    alpha[i] * diagonal[i + 1] / (1 - 2 * alpha[i + 1]));
  }
  return cross;
}

CurvatureBlocks hessian_norms(const ChunkView& view, int kv_head) {
  CurvatureBlocks blocks{attention_shares(view, kv_head), {}, {}};
  const MidValues values(view, kv_head, true);
  const std::vector<double> output = values.weighted(blocks.alpha);
  for (int slot = 0; slot < view.mid(); ++slot) {
    double own = 0;
    double both = 0;
    for (std::int64_t c = 0; c < values.dim(); ++c) {
      const double residual = values.row(slot)[c] - output[static_cast<std::size_t>(c)];
      own += residual * residual;
      if (slot + 1 < view.mid()) {
        const double sum = residual + values.row(slot + 1)[c] - output[static_cast<std::size_t>(c)];
        both += sum * sum;
      }
    }
    const double alpha = blocks.alpha[static_cast<std::size_t>(slot)];
    blocks.diagonal.push_back(std::abs(alpha * (1 - 2 * alpha)) * std::sqrt(own));
    if (slot + 1 < view.mid()) {
      blocks.cross.push_back(alpha * blocks.alpha[static_cast<std::size_t>(slot) + 1] *
                             std::sqrt(both));
    }
  }
  return blocks;
}

CurvatureBlocks hessian_norms_per_query(const ChunkView& view, int kv_head) {
  CurvatureBlocks blocks;
  const double share = 1.0 / view.evidence.shape().group_size();
  for_group(view, kv_head, [&](int, const HeadView& head) {
    const at::Tensor outputs = head.output.square().sum(-1, true);
    const at::Tensor along = at::matmul(head.output, head.values.t());
    const at::Tensor own = (head.values.square().sum(-1) - 2 * along + outputs).clamp_min(0).sqrt();
    const at::Tensor sums =
        head.values.narrow(0, 1, view.pairs()) + head.values.narrow(0, 0, view.pairs());
    const at::Tensor both =
        (sums.square().sum(-1) - 4 * at::matmul(head.output, sums.t()) + 4 * outputs)
            .clamp_min(0)
            .sqrt();
    add(blocks.diagonal, (head.share * (1 - 2 * head.share)).abs().mul(own).mean(0), share);
    add(blocks.cross, left_of(head.share).mul(right_of(head.share)).mul(both).mean(0), share);
  });
  return blocks;
}

CurvatureBlocks gradient_blocks(const ChunkView& view, int kv_head) {
  CurvatureBlocks blocks;
  const at::Tensor gradients = view.evidence.output_gradient();
  const double share = 1.0 / view.evidence.shape().group_size();
  for_group(view, kv_head, [&](int query_head, const HeadView& head) {
    const at::Tensor gradient = gradients.select(0, query_head).to(at::kDouble);
    // E . (v - o) of each query and slot
    const at::Tensor residual =
        at::matmul(gradient, head.values.t()) - gradient.mul(head.output).sum(-1, true);
    add(blocks.diagonal, (head.share * (1 - 2 * head.share)).mul(residual).mean(0), share);
    add(blocks.cross,
        left_of(head.share)
            .mul(right_of(head.share))
            .mul(left_of(residual) + right_of(residual))
            .mean(0),
        share);
  });
  return blocks;
}

}  // namespace kvscope::detail
