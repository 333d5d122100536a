// Biases, norm gains, vectors, choices of layers and projections, and runs that were stopped.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "kvscope/spectral/analyze.h"
#include "spectra.h"

namespace kvscope {
namespace {

const std::vector<double>& values(const Spectrum& s, const std::string& path) {
  static const std::vector<double> none;
  const SpectrumTable* table = s.find(path);
  EXPECT_NE(table, nullptr) << path;
  return table == nullptr ? none : table->values;
}

FakeModel small_model(int layers = 1) {
  FakeModel model(layers, 4, 2, 8, 32);
  model.fill(1);
  return model;
}

TEST(Views, BiasIsOneMoreColumn) {
  FakeModel model = small_model();
  Matrix k(16, 32);
  for (int i = 0; i < 16; ++i) {
    k.at(i, i) = 1;
  }
  model.set(Weight::wk, 0, k);
  Matrix bias(16, 1);
  bias.at(0, 0) = 3;
  model.set(Weight::bk, 0, bias);
  const Spectrum s = analyze_weights(model, {});
  EXPECT_NEAR(values(s, "spectrum/layer/k/eigenvalues")[0], 1, 1e-12);
  EXPECT_NEAR(values(s, "spectrum/layer/k/eigenvalues_with_bias")[0], 10, 1e-12) << "1 + 3^2";
  EXPECT_NEAR(values(s, "spectrum/layer/k/eigenvalues_with_bias")[1], 1, 1e-12);
  EXPECT_EQ(s.find("spectrum/layer/v/eigenvalues_with_bias"), nullptr);
  SpectralOptions without;
  without.with_bias = false;
  EXPECT_EQ(analyze_weights(model, without).find("spectrum/layer/k/eigenvalues_with_bias"),
            nullptr);
}

TEST(Views, GainsFoldInOnlyWhenAsked) {
  FakeModel model = small_model();
  Matrix k(16, 32);
  for (int i = 0; i < 16; ++i) {
    k.at(i, i) = 1;
  }
  model.set(Weight::wk, 0, k);
  Matrix gain(32, 1);
  for (int i = 0; i < 32; ++i) {
    gain.at(i, 0) = i == 0 ? 5 : 1;
  }
  Matrix behind(8, 1);
  for (int i = 0; i < 8; ++i) {
    behind.at(i, 0) = i == 1 ? 7 : 1;
  }
  model.set(Weight::attention_norm, 0, gain);
  model.set(Weight::k_norm, 0, behind);
  SpectralOptions options;
  EXPECT_NEAR(values(analyze_weights(model, options), "spectrum/layer/k/eigenvalues")[0], 1, 1e-12);
  options.gain_folded = true;
  const Spectrum folded = analyze_weights(model, options);
  const auto& found = values(folded, "spectrum/layer/k/eigenvalues");
  EXPECT_NEAR(found[0], 49, 1e-10) << "row 1 of each of two heads";
  EXPECT_NEAR(found[1], 49, 1e-10);
  EXPECT_NEAR(found[2], 25, 1e-10) << "channel 0";
  EXPECT_NEAR(found[3], 1, 1e-10);
  EXPECT_EQ(folded.attributes.at("").at("view"), SpectrumAttribute(std::string("gain_folded")));
}

TEST(Views, LeftVectorsBelongToTheirEigenvalues) {
  FakeModel model = small_model();
  SpectralOptions options;
  options.vectors = true;
  const Spectrum s = analyze_weights(model, options);
  const SpectrumTable* vectors = s.find("spectrum/head/k/left_vectors");
  ASSERT_NE(vectors, nullptr);
  EXPECT_EQ(vectors->axes, (std::vector<std::string>{"layer", "kv_head", "channel", "mode"}));
  // |u^T W|^2 = lambda for the second head.
  const Matrix& k = model.matrix(Weight::wk, 0);
  for (std::size_t mode = 0; mode < 8; ++mode) {
    double square = 0;
    for (int column = 0; column < 32; ++column) {
      double sum = 0;
      for (int channel = 0; channel < 8; ++channel) {
        sum += vectors->values[64 + static_cast<std::size_t>(channel) * 8 + mode] *
               static_cast<double>(static_cast<float>(k.at(8 + channel, column)));
      }
      square += sum * sum;
    }
    EXPECT_NEAR(square / values(s, "spectrum/head/k/eigenvalues")[8 + mode], 1, 1e-10);
  }
}

TEST(Views, OrthogonalTurnsAndHeadOrderChangeNothing) {
  FakeModel model = small_model();
  const Spectrum before = analyze_weights(model, {});
  Matrix& k = model.matrix(Weight::wk, 0);
  Matrix swapped = k;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 32; ++j) {
      swapped.at((i + 8) % 16, j) = k.at(i, j);
    }
  }
  model.set(Weight::wk, 0, swapped);
  const Spectrum after = analyze_weights(model, {});
  const auto& a = values(before, "spectrum/head/k/eigenvalues");
  const auto& b = values(after, "spectrum/head/k/eigenvalues");
  for (std::size_t mode = 0; mode < 8; ++mode) {
    EXPECT_NEAR(a[mode], b[8 + mode], 1e-10) << "heads change places";
  }
  for (std::size_t mode = 0; mode < 16; ++mode) {
    EXPECT_NEAR(values(before, "spectrum/layer/k/eigenvalues")[mode],
                values(after, "spectrum/layer/k/eigenvalues")[mode], 1e-10);
  }
  reflect(model.matrix(Weight::wk, 0), false, 4);
  const Spectrum turned = analyze_weights(model, {});
  for (const char* metric : {"stable_rank", "participation_ratio", "erank_sv", "gini"}) {
    const std::string path = std::string("metrics/layer/") + metric;
    EXPECT_NEAR(values(turned, path)[1] / values(before, path)[1], 1, 1e-5) << metric;
  }
}

TEST(Views, ProjectionsAreChosenOrRefused) {
  const FakeModel model = small_model();
  SpectralOptions options;
  options.projections = {"k", "v"};
  const Spectrum s = analyze_weights(model, options);
  EXPECT_EQ(s.status,
            (std::vector<SpectrumStatus>{SpectrumStatus::skipped_by_user, SpectrumStatus::ok,
                                         SpectrumStatus::ok, SpectrumStatus::skipped_by_user}));
  EXPECT_FALSE(std::isnan(values(s, "asymmetry/A_KV")[0]));
  options.projections = {"w"};
  EXPECT_THROW(analyze_weights(model, options), Error);
}

class Resumed : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() /
            (std::string("kvscope_") +
             ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".partial");
    std::filesystem::remove(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  SpectralOptions options() const {
    SpectralOptions options;
    options.checkpoint = path_.string();
    return options;
  }
  /// Runs until `layers` are finished, then stops; returns how often progress was heard.
  static int run_until(const FakeModel& model, SpectralOptions options, int layers) {
    int heard = 0;
    options.progress = [&](int done, int) {
      ++heard;
      if (done >= layers) {
        throw Error(ErrorCode::interrupted, "stopped");
      }
    };
    EXPECT_THROW(analyze_weights(model, options), Error);
    return heard;
  }
  static void expect_same(const Spectrum& a, const Spectrum& b) {
    ASSERT_EQ(a.tables.size(), b.tables.size());
    for (const auto& [path, table] : a.tables) {
      for (std::size_t i = 0; i < table.values.size() && !path.starts_with("timing/"); ++i) {
        const double other = b.tables.at(path).values.at(i);
        ASSERT_TRUE(table.values[i] == other || (std::isnan(table.values[i]) && std::isnan(other)))
            << path;
      }
    }
    EXPECT_EQ(a.message, b.message);
  }
  std::filesystem::path path_;
};

TEST_F(Resumed, AStoppedRunGoesOnWhereItWas) {
  FakeModel model = small_model(4);
  model.remove(Weight::wv, 1);
  const Spectrum whole = analyze_weights(model, {});
  run_until(model, options(), 2);
  SpectralOptions again = options();
  std::vector<int> done;
  again.progress = [&](int layers, int) { done.push_back(layers); };
  expect_same(analyze_weights(model, again), whole);
  EXPECT_EQ(done, (std::vector<int>{3, 4})) << "two layers were there";
  done.clear();
  expect_same(analyze_weights(model, again), whole);
  EXPECT_TRUE(done.empty()) << "all were there";
}

TEST_F(Resumed, ATornFileLosesItsTailOnly) {
  const FakeModel model = small_model(3);
  const Spectrum whole = analyze_weights(model, {});
  run_until(model, options(), 3);
  const auto bytes = std::filesystem::file_size(path_);
  std::ifstream file(path_, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  std::set<int> resumed;
  for (std::uintmax_t cut = 0; cut < bytes; cut += 1 + bytes / 97) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << content.substr(0, cut);
    SpectralOptions again = options();
    int heard = 0;
    again.progress = [&](int, int) { ++heard; };
    expect_same(analyze_weights(model, again), whole);
    resumed.insert(3 - heard);
  }
  EXPECT_EQ(resumed, (std::set<int>{0, 1, 2}));
}

TEST_F(Resumed, EveryDamagedByteIsNoticed) {
  const FakeModel model = small_model(2);
  const Spectrum whole = analyze_weights(model, {});
  run_until(model, options(), 2);
  std::ifstream file(path_, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  for (std::size_t at = 0; at < content.size(); at += 1 + content.size() / 53) {
    std::string damaged = content;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << damaged;
    expect_same(analyze_weights(model, options()), whole);
  }
}

TEST_F(Resumed, AnotherModelOrOtherOptionsStartAfresh) {
  const FakeModel model = small_model(2);
  run_until(model, options(), 2);
  SpectralOptions other = options();
  other.gain_folded = true;
  int heard = 0;
  other.progress = [&](int, int) { ++heard; };
  analyze_weights(model, other);
  EXPECT_EQ(heard, 2);
}

TEST_F(Resumed, AFolderThatIsNotThereIsAnError) {
  SpectralOptions nowhere;
  nowhere.checkpoint = "/nowhere/at/all.partial";
  EXPECT_THROW(analyze_weights(small_model(), nowhere), Error);
}

}  // namespace
}  // namespace kvscope
