#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/matmul.h>

#include "fake_model.h"
#include "kvscope/core/log.h"
#include "kvscope/kernels/attention_stats.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

TEST(ModelLoad, OutputFactorIsTheTriangleOfWo) {
  const auto model = fake_model();
  for (int layer = 0; layer < 2; ++layer) {
    const at::Tensor weights = model->output_weights(layer).to(at::kDouble);
    const at::Tensor factor = model->output_factor(layer).to(at::kDouble);
    ASSERT_EQ(factor.sizes(), (std::vector<std::int64_t>{4, 8, 8}));
    const at::Tensor gram = at::matmul(weights, weights.transpose(1, 2));
    EXPECT_LT(worst(at::matmul(factor, factor.transpose(1, 2)), gram), 2e-6 * 8);
    // U = L^-1 W has orthonormal rows
    const at::Tensor rows = at::matmul(at::linalg_inv(factor), weights);
    EXPECT_LT(
        worst(at::matmul(rows, rows.transpose(1, 2)), at::eye(8, at::kDouble).expand({4, 8, 8})),
        1e-4);
    EXPECT_EQ(factor.triu(1).abs().max().item<double>(), 0.0);
  }
  EXPECT_TRUE(model->output_factor(0).is_same(model->output_factor(0)));
}

TEST(ModelLoad, RefusesUnknownDevicesTypesAndThreads) {
  const auto file = std::make_shared<FakeModelFile>();
  for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""}) {
    EXPECT_EQ(error_of([&] {
                Model::load(file, {device, "float32", 1});
              }),
              code(ErrorCode::usage))
        << device;
  }
  EXPECT_EQ(error_of([&] { Model::load(file, {"cpu", "float16", 1}); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { Model::load(file, {"cpu", "float32", -1}); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { Model::load(nullptr, {}); }), code(ErrorCode::usage));
  EXPECT_EQ(error_of([&] { LiveRun::start(nullptr, fake_prompt(3), {}); }), code(ErrorCode::usage));
  if (!cuda_available()) {
    EXPECT_EQ(error_of([&] {
                Model::load(file, {"cuda", "float32", 1});
              }),
              code(ErrorCode::unsupported));
    EXPECT_EQ(error_of([&] {
                Model::load(file, {"cuda:1", "float32", 1});
              }),
              code(ErrorCode::unsupported));
  }
}

TEST(ModelLoad, CountsWeightsThatAreNotFinite) {
  EXPECT_TRUE(fake_model()->nonfinite_weights().empty());
  const auto file = std::make_shared<FakeModelFile>();
  file->set(Weight::wk, 1, 3, std::nanf(""));
  file->set(Weight::wk, 1, 9, -INFINITY);
  file->set(Weight::token_embedding, -1, 0, INFINITY);
  std::string warned;
  const LogSink before =
      set_log_sink([&](LogLevel, const std::string& message) { warned += message; });
  const auto model = Model::load(file, {"cpu", "float32", 2});
  set_log_sink(before);
  const std::vector<NonfiniteWeight>& found = model->nonfinite_weights();
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].name, file->weight_name(Weight::token_embedding, -1));
  EXPECT_EQ(found[0].count, 1);
  EXPECT_EQ(found[1].name, file->weight_name(Weight::wk, 1));
  EXPECT_EQ(found[1].count, 2);
  EXPECT_NE(warned.find("3 weights are NaN or infinite"), std::string::npos) << warned;
  EXPECT_NE(warned.find(found[1].name + " (2)"), std::string::npos) << warned;
  RuntimeOptions strict;
  strict.strict = true;
  EXPECT_EQ(error_of([&] { Model::load(file, strict); }), code(ErrorCode::corrupt_file));
}

TEST(ModelLoad, ChecksWeightsAgainstTheConfig) {
  const auto lacking = std::make_shared<FakeModelFile>();
  lacking->drop(Weight::mlp_up, 1);
  EXPECT_EQ(error_of([&] {
              Model::load(lacking, {"cpu", "float32", 2});
            }),
            code(ErrorCode::corrupt_file));
  const auto contradicting = std::make_shared<FakeModelFile>();
  contradicting->change_config().mlp_dim = 21;
  EXPECT_EQ(error_of([&] {
              Model::load(contradicting, {"cpu", "float32", 2});
            }),
            code(ErrorCode::corrupt_file));
}

TEST(ModelLoad, ZeroThreadsMeansAllCores) {
  EXPECT_GE(fake_model("float32", 0)->options().threads, 1);
}

}  // namespace
}  // namespace kvscope::test
