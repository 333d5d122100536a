// Parity with numpy and WeightWatcher: tests/golden/spectral_reference.py says how.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

#include "metrics.h"
#include "spectra.h"
#include "tail_fits.h"

namespace kvscope::spectral {
namespace {

struct Reference {
  int rows = 0;
  int columns = 0;
  std::map<std::string, double> value;
  std::vector<double> eigenvalues;
};

std::vector<Reference> references(std::map<std::string, double>& single) {
  std::ifstream file(KVSCOPE_SOURCE_DIR "/tests/golden/spectral_reference.txt");
  EXPECT_TRUE(file.good());
  std::vector<Reference> found;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name == "matrix") {
      found.emplace_back();
      words >> found.back().rows >> found.back().columns;
    } else if (name == "eigenvalues") {
      for (double value = 0; words >> value;) {
        found.back().eigenvalues.push_back(value);
      }
    } else if (name != "#") {
      double value = 0;
      words >> value;
      (name == "ww_entropy_of_rank_one" ? single : found.back().value)[name] = value;
    }
  }
  return found;
}

Matrix matrix_of(int rows, int columns) {
  Matrix w(rows, columns);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      w.at(r, c) =
          std::ldexp((37 * r + 101 * c + 13 * r * c + c * (r * r * r + c)) % 257 - 128, -3 - r % 5);
    }
  }
  return w;
}

TEST(Golden, NumpyAndWeightWatcher) {
  std::map<std::string, double> single;
  const std::vector<Reference> all = references(single);
  ASSERT_EQ(all.size(), 4u);
  for (const Reference& reference : all) {
    SCOPED_TRACE(std::to_string(reference.rows) + " x " + std::to_string(reference.columns));
    const std::vector<double> values = spectrum_of(matrix_of(reference.rows, reference.columns));
    ASSERT_EQ(values.size(), reference.eigenvalues.size());
    const double tolerance = 64 * static_cast<double>(values.size()) *
                             std::numeric_limits<double>::epsilon() * values[0];
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(values[i], reference.eigenvalues[i], tolerance);
    }
    const SpectrumMetrics m = metrics_of(values, 0);
    const std::pair<const char*, Metric> same[] = {
        {"fro2", Metric::fro2},
        {"stable_rank", Metric::stable_rank},
        {"participation_ratio", Metric::participation_ratio},
        {"erank_energy", Metric::erank_energy},
        {"erank_sv", Metric::erank_sv},
        {"entropy", Metric::entropy}};
    for (const auto& [name, metric] : same) {
      EXPECT_NEAR(m[metric] / reference.value.at(name), 1, 1e-10) << name;
    }
    const PowerLaw law = fit_power_law(values, 1e-5);  // WeightWatcher's absolute limit
    EXPECT_NEAR(law.alpha, reference.value.at("ww_alpha"), 1e-6);
    EXPECT_NEAR(law.distance, reference.value.at("ww_D"), 1e-6);
    EXPECT_NEAR(law.sigma, reference.value.at("ww_sigma"), 1e-6);
    EXPECT_NEAR(law.x_min / reference.value.at("ww_xmin"), 1, 1e-6);
  }
  std::vector<double> one(4096, 0.0);
  one[0] = 4;
  EXPECT_EQ(metrics_of(one, 0)[Metric::entropy], 0);
  EXPECT_GT(std::abs(single.at("ww_entropy_of_rank_one")), 1000)
      << "its guard constant enters the logarithm of the rank";
}

}  // namespace
}  // namespace kvscope::spectral
