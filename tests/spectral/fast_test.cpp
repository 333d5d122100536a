#include "fast.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kvscope/spectral/analyze.h"
#include "spectra.h"

namespace kvscope::spectral {
namespace {

double value(const Spectrum& s, const std::string& path, std::size_t at) {
  const SpectrumTable* table = s.find(path);
  EXPECT_NE(table, nullptr) << path;
  return table == nullptr ? std::nan("") : table->values.at(at);
}

/// The heavy-tailed layer of the measured errors below.
FakeModel realistic() {
  FakeModel model(1, 8, 2, 32, 256);
  model.fill(5);
  std::vector<double> singular;
  for (int i = 0; i < 256; ++i) {
    singular.push_back(std::pow(i + 1.0, -0.5) + 0.1);
  }
  model.set(Weight::wq, 0, with_spectrum(256, 256, singular, 3));
  return model;
}

TEST(Fast, AgreesWithTheExactMode) {
  const FakeModel model = realistic();
  SpectralOptions options;
  const Spectrum exact = analyze_weights(model, options);
  options.fast = true;
  const Spectrum fast = analyze_weights(model, options);
  for (std::size_t p = 0; p < 4; ++p) {
    for (const char* metric : {"fro2", "participation_ratio", "participation_ratio_rel"}) {
      const std::string path = std::string("metrics/layer/") + metric;
      EXPECT_NEAR(value(fast, path, p) / value(exact, path, p), 1, 1e-10) << metric;
    }
    EXPECT_NEAR(
        value(fast, "metrics/layer/stable_rank", p) / value(exact, "metrics/layer/stable_rank", p),
        1, 0.02)
        << "30 Lanczos steps on a Gaussian edge; the bound says how far";
    const double largest = std::pow(value(exact, "metrics/layer/sigma_max", p), 2);
    const double found = std::pow(value(fast, "metrics/layer/sigma_max", p), 2);
    EXPECT_LE(found, largest * (1 + 1e-12)) << "from below";
    EXPECT_LE(value(fast, "metrics/layer/sigma_max_bound", p), 0.05 * largest);
  }
  for (const char* path : {"metrics/head/k/participation_ratio", "alignment/gram_qk"}) {
    EXPECT_NEAR(value(fast, path, 0) / value(exact, path, 0), 1, 1e-10);
  }
  EXPECT_NEAR(value(fast, "asymmetry/A_KV", 0), value(exact, "asymmetry/A_KV", 0), 1e-10);
  EXPECT_EQ(fast.find("spectrum/layer/q/eigenvalues"), nullptr);
  EXPECT_TRUE(std::isnan(value(fast, "metrics/layer/erank_energy", 0)))
      << "no entropy without eigenvalues";
}

TEST(Fast, LanczosFindsAnIsolatedTopExactly) {
  const Floats floats(with_spectrum(60, 90, {9, 3, 2, 1}, 2));
  AlignedDoubles g = gram(floats.view(), GramSide::rows);
  mirror(g, 60);
  const FastSpectrum fast = fast_spectrum(g, 60, 0, 1);
  EXPECT_NEAR(fast.largest, 81, 1e-4);
  EXPECT_LE(fast.bound, 1e-6 * 81);
  EXPECT_NEAR(fast_spectrum(g, 60, 3, 1).largest, 64 * fast.largest, 1e-9) << "the scale returns";
  AlignedDoubles nothing(16);
  EXPECT_EQ(fast_spectrum(nothing, 4, 0, 1).largest, 0) << "a zero matrix is no trouble";
}

TEST(Fast, RandomisedValuesComeFromBelowWithSmallErrors) {
  FakeModel model = realistic();
  SpectralOptions options;
  options.fast = true;
  options.top = 8;
  const Spectrum fast = analyze_weights(model, options);
  const std::vector<double> exact = spectrum_of(model.matrix(Weight::wq, 0));
  for (std::size_t i = 0; i < 8; ++i) {
    const double found = value(fast, "spectrum/layer/q/top_singular_values", i);
    EXPECT_LE(found, std::sqrt(exact[i]) * (1 + 1e-9));
    EXPECT_GE(found, std::sqrt(exact[i]) * 0.97) << "two power iterations, slowly decaying tail";
  }
}

}  // namespace
}  // namespace kvscope::spectral
