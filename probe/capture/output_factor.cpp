#include "kvscope/capture/output_factor.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>

namespace kvscope {
namespace {

/// W_O^h W_O^h^T in float64 of weights [query_heads, head_dim, hidden_dim]: [query_heads, head_dim,
/// head_dim]. On the CPU a head for each thread, so that only one head's float64 copy is alive.
at::Tensor gram(const at::Tensor& weights) {
  if (!weights.is_cpu()) {
    const at::Tensor exact = weights.to(at::kDouble);
    return at::matmul(exact, exact.transpose(1, 2));
  }
  at::Tensor products = at::empty({weights.size(0), weights.size(1), weights.size(1)},
                                  weights.options().dtype(at::kDouble));
  at::parallel_for(0, weights.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;  // the mode is per thread
    for (std::int64_t head = begin; head < end; ++head) {
      const at::Tensor exact = weights[head].to(at::kDouble);
      at::Tensor product = products[head];
      at::mm_out(product, exact, exact.t());
    }
  });
  return products;
}

}  // namespace

at::Tensor output_factor(const at::Tensor& weights) {
  const at::NoGradGuard no_grad;
  // L of W_O^h = L U is the lower Cholesky factor of W_O^h W_O^h^T: the same matrix as R^T of a QR
  // of the transpose with a positive diagonal, ten times sooner. float64 keeps it exact.
  const auto [lower, info] = at::linalg_cholesky_ex(gram(weights));
  if (info.count_nonzero().item<std::int64_t>() == 0) {
    return lower.to(at::kFloat).contiguous();
  }
  // A head of deficient rank: QR needs no definiteness.
  const at::Tensor upper = std::get<1>(at::linalg_qr(weights.to(at::kDouble).transpose(1, 2)));
  return upper.transpose(1, 2).to(at::kFloat).contiguous();
}

}  // namespace kvscope
