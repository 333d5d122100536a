#include "products.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "kvscope/model/model_file.h"
#include "lapack.h"
#include "metrics.h"
#include "random.h"
#include "tables.h"
#include "weights.h"

namespace kvscope::spectral {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// What one head of one projection contributes to its pairs.
struct Factor {
  WeightView view;   ///< [head_dim, hidden_dim]; of W_O [hidden_dim, head_dim]
  AlignedDoubles r;  ///< [min(hidden, head_dim), head_dim]
  double self = 0;   ///< |W W^T|_F^2
  EigenPairs eigen;  ///< of W W^T, where subspaces are compared
};

double squared_norm(const AlignedDoubles& matrix) {
  double square = 0;
  for (std::size_t i = 0; i < matrix.size(); ++i) {
    square += matrix[i] * matrix[i];
  }
  return square;
}

/// |A B^T|_F^2 / (|A A^T|_F |B B^T|_F), in [0, 1].
double alignment(const Factor& a, const Factor& b, const AlignedDoubles& cross) {
  return squared_norm(cross) / std::sqrt(a.self * b.self);
}

/// R of W^T = Q R for a head of q, k, v, or of W itself for a head of o.
AlignedDoubles factor_of(const WeightView& view, bool heads_are_rows) {
  AlignedDoubles tall(cells(view.rows, view.columns));
  if (heads_are_rows) {  // row-major W is the column-major W^T
    widen(view, 0, view.rows, 0, view.columns, tall.data());
    return qr_factor(tall, view.columns, view.rows);
  }
  AlignedDoubles rows(cells(view.rows, view.columns));
  widen(view, 0, view.rows, 0, view.columns, rows.data());
  for (int row = 0; row < view.rows; ++row) {
    for (int column = 0; column < view.columns; ++column) {
      tall[cells(column, view.rows) + static_cast<std::size_t>(row)] =
          rows[cells(row, view.columns) + static_cast<std::size_t>(column)];
    }
  }
  return qr_factor(tall, view.rows, view.columns);
}

/// The heads of one projection, loaded.
class Heads {
 public:
  Heads(const ModelFile& model, int layer, int p, const SpectralOptions& options)
      : layout_(layout_of(p, model.config().shape)),
        weights_(load_weights(model, layer, layout_, options)) {
    if (!usable()) {
      return;
    }
    for (int head = 0; head < layout_.heads; ++head) {
      Factor factor;
      factor.view = weights_.head(layout_, head);
      if (!options.fast) {
        factor.r = factor_of(factor.view, layout_.heads_are_rows);
      }
      factors_.push_back(std::move(factor));
    }
  }

  bool usable() const {
    return weights_.usable() && weights_.status == SpectrumStatus::ok && weights_.sliced(layout_);
  }
  int count() const { return layout_.heads; }
  int exponent() const { return weights_.exponent; }
  Factor& operator[](int head) { return factors_[static_cast<std::size_t>(head)]; }

  /// |W_h W_h^T|_F^2, and eigenpairs if subspaces are to be compared.
  void solve_grams(bool with_pairs) {
    for (Factor& factor : factors_) {
      AlignedDoubles g = gram(factor.view, GramSide::rows);
      mirror(g, factor.view.rows);
      factor.self = squared_norm(g);
      if (with_pairs) {
        factor.eigen = symmetric_eigen(g, factor.view.rows);
      }
    }
  }

  /// gram_alignment of all pairs of heads, [count, count].
  std::vector<double> among() {
    std::vector<double> table(cells(count(), count()), 1.0);
    for (int a = 0; a < count(); ++a) {
      for (int b = 0; b < a; ++b) {
        const double value =
            alignment((*this)[a], (*this)[b], cross_gram((*this)[a].view, (*this)[b].view));
        table[cells(a, count()) + static_cast<std::size_t>(b)] = value;
        table[cells(b, count()) + static_cast<std::size_t>(a)] = value;
      }
    }
    return table;
  }

 private:
  ProjectionLayout layout_;
  ProjectionWeights weights_;
  std::vector<Factor> factors_;
};

/// Singular values of R_A R_B^T, scaled back.
std::vector<double> core_values(const AlignedDoubles& a, const AlignedDoubles& b, int head_dim,
                                int exponent) {
  const int rows = static_cast<int>(a.size()) / head_dim;
  const int columns = static_cast<int>(b.size()) / head_dim;
  AlignedDoubles core(cells(rows, columns));
  multiply_add(
      {false, true, rows, columns, head_dim, a.data(), rows, b.data(), columns, core.data(), rows});
  std::vector<double> values = singular_values(core, rows, columns);
  if (values.empty()) {
    values.assign(static_cast<std::size_t>(head_dim), nan);
  }
  values.resize(static_cast<std::size_t>(head_dim), 0.0);
  for (double& value : values) {
    value = std::ldexp(value, exponent);
  }
  return values;
}

/// Eigenvalues of W_O W_V that may differ from 0 are those of the small product W_V W_O.
std::vector<double> ov_eigenvalues(const WeightView& o, const WeightView& v, int exponent) {
  const int n = v.rows;
  const int d = v.columns;
  AlignedDoubles left(cells(n, d));  // row-major W_V is the column-major W_V^T
  AlignedDoubles right(cells(d, n));
  widen(v, 0, n, 0, d, left.data());
  widen(o, 0, d, 0, n, right.data());
  AlignedDoubles core(cells(n, n));
  multiply_add({true, true, n, n, d, left.data(), d, right.data(), n, core.data(), n});
  std::vector<double> parts;
  for (const std::complex<double>& value : general_eigenvalues(core, n)) {
    parts.push_back(std::ldexp(value.real(), exponent));
    parts.push_back(std::ldexp(value.imag(), exponent));
  }
  parts.resize(2 * static_cast<std::size_t>(n), nan);  // empty: it did not converge
  return parts;
}

/// |V_A,k^T V_B,k|_F^2 / k: with V = W^T U / s it is the scaled block of U_A^T (A B^T) U_B.
void add_overlap(const AlignedDoubles& cross, const Factor& a, const Factor& b, int n,
                 std::vector<double>& table) {
  AlignedDoubles half(cells(n, n));
  AlignedDoubles turned(cells(n, n));
  multiply_add({true, false, n, n, n, a.eigen.vectors.data(), n, cross.data(), n, half.data(), n});
  multiply_add(
      {false, false, n, n, n, half.data(), n, b.eigen.vectors.data(), n, turned.data(), n});
  for (const int k : overlap_sizes) {
    const auto last = static_cast<std::size_t>(k) - 1;
    if (k > n || a.eigen.values.empty() || b.eigen.values.empty() ||
        !(a.eigen.values[last] > 0 && b.eigen.values[last] > 0)) {
      table.push_back(nan);
      continue;
    }
    double sum = 0;
    for (int column = 0; column < k; ++column) {
      for (int row = 0; row < k; ++row) {
        const double value = turned[cells(column, n) + static_cast<std::size_t>(row)];
        sum += value * value /
               (a.eigen.values[static_cast<std::size_t>(row)] *
                b.eigen.values[static_cast<std::size_t>(column)]);
      }
    }
    table.push_back(sum / k);
  }
}

void pair_queries(Heads& q, Heads& k, const ModelShape& shape, LayerProducts& products) {
  const int n = shape.head_dim;
  for (int head = 0; head < q.count(); ++head) {
    const int kv_head = shape.kv_head_of(head);
    const AlignedDoubles cross = cross_gram(q[head].view, k[kv_head].view);
    products.gram_qk.push_back(alignment(q[head], k[kv_head], cross));
    if (q[head].r.size() == 0) {
      continue;  // the fast mode
    }
    add_overlap(cross, q[head], k[kv_head], n, products.overlap);
    products.qk.push_back(core_values(q[head].r, k[kv_head].r, n, q.exponent() + k.exponent()));
  }
  products.gram_qq = q.among();
}

}  // namespace

LayerProducts layer_products(const ModelFile& model, int layer, const SpectralOptions& options) {
  const ModelShape& shape = model.config().shape;
  LayerProducts products;
  Heads k(model, layer, 1, options);
  Heads v(model, layer, 2, options);
  k.solve_grams(!options.fast);
  v.solve_grams(false);
  if (k.usable()) {
    products.gram_kk = k.among();
  }
  if (v.usable()) {
    products.gram_vv = v.among();
  }
  for (int head = 0; k.usable() && v.usable() && head < shape.kv_heads; ++head) {
    products.gram_kv.push_back(alignment(k[head], v[head], cross_gram(k[head].view, v[head].view)));
  }
  {
    Heads q(model, layer, 0, options);
    q.solve_grams(!options.fast);
    if (q.usable() && k.usable()) {
      pair_queries(q, k, shape, products);
    }
  }
  if (options.fast) {
    return products;
  }
  Heads o(model, layer, 3, options);
  for (int head = 0; o.usable() && v.usable() && head < shape.query_heads; ++head) {
    products.ov.push_back(core_values(o[head].r, v[shape.kv_head_of(head)].r, shape.head_dim,
                                      o.exponent() + v.exponent()));
    if (options.ov_eigenvalues) {
      products.ov_eigenvalues.push_back(ov_eigenvalues(o[head].view, v[shape.kv_head_of(head)].view,
                                                       o.exponent() + v.exponent()));
    }
  }
  return products;
}

ProductNull gaussian_product_null(int head_dim, int hidden_dim, std::uint64_t seed) {
  constexpr int draws = 8;
  const int height = std::min(head_dim, hidden_dim);
  Random random(seed);
  const auto draw = [&] {  // R of a Gaussian matrix: chi on the diagonal, normal above (Bartlett)
    AlignedDoubles r(cells(height, head_dim));
    for (int column = 0; column < head_dim; ++column) {
      for (int row = 0; row < std::min(column + 1, height); ++row) {
        double value = random.normal();
        if (row == column) {
          double square = 0;
          for (int i = 0; i < hidden_dim - row; ++i) {
            const double normal = random.normal();
            square += normal * normal;
          }
          value = std::sqrt(square);
        }
        r[cells(column, height) + static_cast<std::size_t>(row)] = value;
      }
    }
    return r;
  };
  ProductNull null;
  for (int i = 0; i < draws; ++i) {
    const AlignedDoubles a = draw();
    const AlignedDoubles b = draw();
    std::vector<double> values = core_values(a, b, head_dim, 0);
    for (double& value : values) {
      value *= value;
    }
    const SpectrumMetrics metrics = metrics_of(values, nan);
    null.participation_ratio += metrics[Metric::participation_ratio] / draws;
    null.erank_energy += metrics[Metric::erank_energy] / draws;
    null.erank_sv += metrics[Metric::erank_sv] / draws;
    null.k90 += metrics.energy_rank[1] / draws;
  }
  return null;
}

}  // namespace kvscope::spectral
