#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kvscope/core/error.h"
#include "registry/entry.h"
#include "scorers/compactor.h"
#include "scorers/draws.h"
#include "scorers/reduce.h"

namespace kvscope::detail {

at::Tensor standardised(const at::Tensor& scores) {
  // In float64, so that the order of the heads does not show.
  const at::Tensor wide = scores.to(at::kDouble);
  const at::Tensor centred = wide - wide.mean();
  const double others = std::max<double>(1, static_cast<double>(wide.numel()) - 1);
  return (centred / (centred.square().sum() / others).sqrt().clamp_min(1e-6)).to(at::kFloat);
}

at::Tensor gaussian_sketch(std::int64_t head_dim, int columns, std::uint64_t seed) {
  at::Tensor sketch = at::empty({head_dim, columns}, at::kFloat);
  float* cell = sketch.mutable_data_ptr<float>();
  const std::uint64_t key = mix(seed);
  for (std::int64_t at = 0; at < sketch.numel(); ++at) {
    cell[at] = static_cast<float>(normal_draw(key ^ mix(static_cast<std::uint64_t>(at))) /
                                  std::sqrt(static_cast<double>(columns)));
  }
  return sketch;
}

at::Tensor leverage_of(const at::Tensor& keys, const at::Tensor& sketch, int layer) {
  const at::Tensor rows = (keys - keys.mean(1, /*keepdim=*/true)).matmul(sketch.to(keys.device()));
  const at::Tensor gram = rows.transpose(1, 2).matmul(rows);
  const at::Tensor even = (gram + gram.transpose(1, 2)) / 2.0;
  const at::Tensor unit = at::eye(sketch.size(1), keys.options());
  double ridge = 1e-2;
  for (int attempt = 0; attempt < 5; ++attempt, ridge *= 10) {
    const auto [factor, failed] =
        at::linalg_cholesky_ex(even + unit * ridge, /*upper=*/false, /*check_errors=*/false);
    if (failed.eq(0).all().item<bool>()) {
      const at::Tensor solved = at::linalg_solve_triangular(factor, rows.transpose(1, 2),
                                                            /*upper=*/false);
      return solved.square().sum(1);
    }
  }
  throw Error(ErrorCode::failed, "the sketched keys have no Cholesky factor",
              fmt::format("layer {}", layer),
              "check the capture for NaN in keys: kvscope check; or use another seed=");
}

namespace {

class Leverage : public Scorer {
 public:
  explicit Leverage(const Arguments& arguments)
      : sketch_(arguments.integer("sketch")),
        seed_(static_cast<std::uint64_t>(arguments.integer("seed"))) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int layer = evidence.moment().layer;
    const at::Tensor keys = rows(evidence.keys(Frame::pre_rope), live_slots(evidence));
    check_finite(keys, "key", layer);
    const at::Tensor sketch =
        gaussian_sketch(keys.size(2), sketch_, mix(seed_) ^ static_cast<std::uint64_t>(layer));
    const at::Tensor score = standardised(leverage_of(keys, sketch, layer));
    return {score, score.unsqueeze(0)};
  }

 private:
  int sketch_;
  std::uint64_t seed_;
};

}  // namespace

PieceEntry leverage_entry() {
  PieceEntry entry;
  entry.info.name = "leverage";
  entry.info.summary = "keeps outliers among the keys before rotation: their leverage, sketched";
  entry.info.paper =
      "Chari and Van Durme 2025 (Compactor), arXiv:2507.08143; kvpress LeverageScorePress";
  entry.info.departures =
      "kvpress's form, ridge 0.01; the sketch is drawn by seed and layer, one for all KV heads, "
      "where kvpress draws one for each head from torch's generator";
  entry.info.scope = "layer";
  entry.info.parameters = {
      integer_parameter("sketch", 48, "1..", "columns", "leverage is estimated more exactly"),
      integer_parameter("seed", 0, "0..", "", "another draw")};
  entry.info.terms = {{"leverage", "standard deviations over the layer"}};
  entry.info.combine = "leverage";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Leverage>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
