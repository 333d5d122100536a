#include "kvscope/storage/spectrum_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

SpectrumTable made_table(std::vector<int> shape, std::vector<std::string> axes) {
  SpectrumTable table;
  table.shape = std::move(shape);
  table.axes = std::move(axes);
  std::size_t count = 1;
  for (const int size : table.shape) {
    count *= static_cast<std::size_t>(size);
  }
  for (std::size_t i = 0; i < count; ++i) {
    table.values.push_back(1.0 / 3 + static_cast<double>(i));
  }
  table.units = "weight^2";
  table.long_name = "a table";
  table.formula = "x + y";
  return table;
}

Spectrum made_spectrum() {
  Spectrum s;
  s.model_name = "made";
  s.model_hash = "0011";
  s.weights_dtype = "BF16";
  s.query_heads = 4;
  s.kv_heads = 2;
  s.head_dim = 8;
  s.hidden_dim = 32;
  s.layers = {3, 7};
  s.projections = {"q", "k", "v", "o"};
  s.status.assign(8, SpectrumStatus::ok);
  s.message.assign(8, "");
  s.status[2] = SpectrumStatus::nonfinite;
  s.message[2] = "2 entries are NaN,\nfirst at row 3 — here";
  s.tables["spectrum/layer/q/eigenvalues"] = made_table({2, 5}, {"layer", "mode"});
  s.tables["spectrum/layer/q/eigenvalues"].values[4] = std::nan("");
  SpectrumTable ranks = made_table({2, 4, 4}, {"layer", "proj", "energy"});
  for (double& value : ranks.values) {
    value = std::floor(value);
  }
  ranks.values[1] = std::nan("");
  s.tables["metrics/layer/energy_rank"] = ranks;
  SpectrumTable histogram = made_table({2, 2, 3}, {"layer", "kv_head", "bin"});
  for (double& value : histogram.values) {
    value = std::floor(value);
  }
  s.tables["homogeneity/notes/k/cos_adj_hist"] = histogram;
  s.tables["merging/pairs/k/actual"] = made_table({2, 2}, {"layer", "kv_head"});
  s.claims.push_back({"a", "one holds", 0.9, 0.7, 0.98, 0.001, 12, "holds"});
  s.claims.push_back(
      {"b", "one has none", std::nan(""), std::nan(""), std::nan(""), std::nan(""), 0, "no data"});
  s.attributes[""]["view"] = std::string("raw");
  s.attributes["homogeneity/notes"]["rope"] = std::string("pre");
  s.attributes["homogeneity/notes"]["n_pairs"] = 55.0;
  s.attributes["homogeneity/notes/k/cos_adj_hist"]["edges"] = std::vector<double>{-1, 0, 1};
  return s;
}

class SpectrumFile : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::temp_directory_path() /
             (std::string("kvscope_") +
              ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".spectrum.h5"))
                .string();
    std::filesystem::remove(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }
  std::string path_;
};

void expect_equal(const std::vector<double>& a, const std::vector<double>& b,
                  const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) << what << " " << i;
  }
}

TEST_F(SpectrumFile, ComesBackWhole) {
  const Spectrum wrote = made_spectrum();
  write_spectrum(path_, wrote);
  const Spectrum read = read_spectrum(path_);
  EXPECT_EQ(read.model_name, wrote.model_name);
  EXPECT_EQ(read.layers, wrote.layers);
  EXPECT_EQ(read.projections, wrote.projections);
  EXPECT_EQ(read.status, wrote.status);
  EXPECT_EQ(read.message, wrote.message);
  ASSERT_EQ(read.tables.size(), wrote.tables.size());
  for (const auto& [path, table] : wrote.tables) {
    const SpectrumTable& found = read.tables.at(path);
    EXPECT_EQ(found.shape, table.shape) << path;
    EXPECT_EQ(found.axes, table.axes) << path;
    EXPECT_EQ(found.units, table.units) << path;
    EXPECT_EQ(found.formula, table.formula) << path;
    expect_equal(found.values, table.values, path);
  }
  for (const auto& [path, attributes] : wrote.attributes) {
    for (const auto& [name, value] : attributes) {
      EXPECT_EQ(read.attributes.at(path).at(name), value) << path << " " << name;
    }
  }
  ASSERT_EQ(read.claims.size(), 2u);
  EXPECT_EQ(read.claims[0].statement, "one holds");
  EXPECT_EQ(read.claims[0].p, 0.001);
  EXPECT_EQ(read.claims[0].count, 12);
  EXPECT_EQ(read.claims[1].verdict, "no data");
  EXPECT_TRUE(std::isnan(read.claims[1].statistic));
}

TEST_F(SpectrumFile, WrittenAgainTheSame) {
  write_spectrum(path_, made_spectrum());
  const Spectrum once = read_spectrum(path_);
  write_spectrum(path_, once, true);
  const Spectrum twice = read_spectrum(path_);
  EXPECT_EQ(twice.tables.size(), once.tables.size());
  EXPECT_EQ(twice.attributes.size(), once.attributes.size());
  EXPECT_EQ(twice.claims.size(), once.claims.size());
}

TEST_F(SpectrumFile, ATruncatedOneIsRefused) {
  write_spectrum(path_, made_spectrum());
  const auto bytes = std::filesystem::file_size(path_);
  std::ifstream file(path_, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  for (std::uintmax_t cut = 0; cut < bytes; cut += 1 + bytes / 41) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << content.substr(0, cut);
    EXPECT_THROW(read_spectrum(path_), Error) << cut << " of " << bytes;
  }
}

TEST_F(SpectrumFile, ATableOutsideTheSchemaIsRefused) {
  Spectrum s = made_spectrum();
  s.tables["elsewhere/x"] = made_table({2}, {"layer"});
  EXPECT_THROW(write_spectrum(path_, s), Error);
  EXPECT_FALSE(std::filesystem::exists(path_)) << "and nothing is left";
}

TEST_F(SpectrumFile, ExistingFilesStay) {
  write_spectrum(path_, made_spectrum());
  EXPECT_THROW(write_spectrum(path_, made_spectrum()), Error);
  write_spectrum(path_, made_spectrum(), true);
}

}  // namespace
}  // namespace kvscope
