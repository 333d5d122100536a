#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/sqrt.h>

#include <cmath>
#include <complex>

#include "scorers/triattention.h"

namespace kvscope::detail {
namespace {

/// Factor of each band in one synthetic query: e^{i w (next + offset)}, or its mean over the
/// offsets.
std::vector<std::complex<double>> band_factors(const RopeParameters& rope, std::int64_t next,
                                               int first_power, int last_power) {
  std::vector<std::complex<double>> factors;
  for (const double frequency : rope.inverse_frequency) {
    std::complex<double> sum = 0;
    for (int power = first_power; power < last_power; ++power) {
      sum += std::polar(1.0, frequency * static_cast<double>(std::int64_t{1} << power));
    }
    factors.push_back(sum / static_cast<double>(last_power - first_power) *
                      std::polar(1.0, frequency * static_cast<double>(next)));
  }
  return factors;
}

/// Writes one synthetic query for each head: centre * factor, half-split, times `scale`.
void write_queries(const QueryCentres& centres, const std::vector<std::complex<double>>& factors,
                   double scale, at::Tensor queries) {
  const at::Tensor real = centres.real.cpu().contiguous();
  const at::Tensor imaginary = centres.imaginary.cpu().contiguous();
  const std::int64_t bands = real.size(1);
  float* out = queries.mutable_data_ptr<float>();
  for (std::int64_t head = 0; head < real.size(0); ++head) {
    const float* re = real.const_data_ptr<float>() + head * bands;
    const float* im = imaginary.const_data_ptr<float>() + head * bands;
    for (std::int64_t band = 0; band < bands; ++band) {
      const std::complex<double> query = std::complex<double>(re[band], im[band]) *
                                         factors[static_cast<std::size_t>(band)] * scale;
      out[head * 2 * bands + band] = static_cast<float>(query.real());
      out[head * 2 * bands + bands + band] = static_cast<float>(query.imag());
    }
  }
}

/// Products of each query head's vector with its KV head's rows: [query_heads, slots].
at::Tensor products(const at::Tensor& per_query_head, const at::Tensor& rows) {
  const std::int64_t kv_heads = rows.size(0);
  const at::Tensor grouped =
      per_query_head.unflatten(0, {kv_heads, per_query_head.size(0) / kv_heads});
  return at::matmul(grouped, rows.transpose(1, 2)).flatten(0, 1);
}

}  // namespace

at::Tensor synthetic_queries(const QueryCentres& centres, const RopeParameters& rope,
                             const FutureOffsets& offsets, std::int64_t next) {
  const int rows = offsets.maximum ? offsets.count : 1;
  at::Tensor queries =
      at::empty({rows, centres.real.size(0), 2 * centres.real.size(1)}, at::kFloat);
  for (int row = 0; row < rows; ++row) {
    const auto factors = offsets.maximum ? band_factors(rope, next, row, row + 1)
                                         : band_factors(rope, next, 0, offsets.count);
    write_queries(centres, factors, rope.attention_factor, queries[row]);
  }
  return queries;
}

TriTerms triattention_terms(const at::Tensor& keys, const QueryCentres& centres,
                            const RopeParameters& rope, const FutureOffsets& offsets,
                            std::int64_t next, bool resultant) {
  const at::Tensor queries = synthetic_queries(centres, rope, offsets, next).to(keys.device());
  TriTerms terms;
  for (std::int64_t row = 0; row < queries.size(0); ++row) {
    const at::Tensor series = products(queries[row], keys);
    terms.trigonometric = row == 0 ? series : at::maximum(terms.trigonometric, series);
  }
  const std::int64_t bands = centres.real.size(1);
  const at::Tensor lengths =
      at::sqrt(keys.narrow(2, 0, bands).square().add(keys.narrow(2, bands, bands).square()));
  const at::Tensor centre = at::sqrt(centres.real.square().add(centres.imaginary.square()));
  const at::Tensor spread =
      resultant ? centres.absolute.sub(centre).clamp_min(0.0) : centres.absolute;
  terms.norm = products(spread.mul(rope.attention_factor).to(keys.device()), lengths);
  return terms;
}

}  // namespace kvscope::detail
