#include <map>

#include "forward.h"
#include "golden_model.h"
#include "golden_run.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

using detail::LayerState;
using detail::LoadedModel;
using detail::PassInput;
using detail::PassWatch;
using Ids = std::vector<std::int32_t>;

/// Allowed difference, as a part of the largest number of a stage.
constexpr double tolerance = 2e-4;

/// Tiny seeded models of each family against transformers (golden/families.py).
class Families : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    golden_ = read_golden(std::string("family_") + GetParam() + ".json");
    file_ = std::make_shared<GoldenModel>(golden_);
    ids_ = golden_.at("ids").get<Ids>();
  }

  std::unique_ptr<LiveRun> started(std::size_t prompt, LiveRunOptions options = {},
                                   const char* dtype = "float32") const {
    return LiveRun::start(Model::load(file_, {"cpu", dtype, 2}),
                          prompt_of(std::span(ids_).first(prompt)), std::move(options));
  }

  static double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

  /// Compares the golden's rows of one stage; [heads, rows, channels] is turned to rows first.
  void expect_rows(const nlohmann::json& rows, const at::Tensor& tensor,
                   const std::string& what) const {
    const at::Tensor by_row =
        tensor.dim() == 3 ? tensor.transpose(0, 1).reshape({tensor.size(1), -1}) : tensor;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const auto expected = rows[row].get<std::vector<double>>();
      const at::Tensor found = by_row[golden_["rows"][row].get<std::int64_t>()];
      EXPECT_LT(worst(found, expected), tolerance * (1 + largest(found)))
          << what << ", row " << row;
    }
  }

  nlohmann::json golden_;
  std::shared_ptr<const GoldenModel> file_;
  Ids ids_;
};

TEST_P(Families, EveryStageEqualsTransformers) {
  const auto model =
      std::dynamic_pointer_cast<const LoadedModel>(Model::load(file_, {"cpu", "float32", 2}));
  std::vector<LayerState> layers;
  const ModelShape& shape = model->shape();
  for (int layer = 0; layer < shape.layers; ++layer) {
    layers.emplace_back(shape.kv_heads, shape.head_dim, 8, at::TensorOptions(at::kFloat));
  }
  std::map<std::pair<HookPoint, int>, at::Tensor> seen;
  PassWatch watch;
  watch.hook = [&](HookPoint point, int layer, const at::Tensor& tensor) {
    seen[{point, layer}] = tensor.to(at::kFloat).clone();
  };
  const std::vector<std::int32_t> positions = prompt_of(ids_).position;
  const at::Tensor hidden = run_pass(
      *model, layers, PassInput{ids_, positions, 0, static_cast<int>(ids_.size()), true}, watch);
  for (const nlohmann::json& stage : golden_.at("stages")) {
    const auto name = stage.at("stage").get<std::string>();
    const int layer = stage.at("layer").get<int>();
    expect_rows(stage.at("rows"), seen.at({parse_hook(name), layer}),
                name + " of layer " + std::to_string(layer));
  }
  const at::Tensor logits = head_logits(*model, hidden);
  expect_rows(golden_.at("logits"), logits, "logits");
  const at::Tensor best = logits.argmax(-1).to(at::kInt);
  EXPECT_EQ(Ids(best.const_data_ptr<int>(), best.const_data_ptr<int>() + best.numel()),
            golden_.at("top1").get<Ids>());
}

TEST_P(Families, ChunksAndDecodingGiveTheSameRun) {
  const auto whole = started(ids_.size());
  whole->prefill(true, nullptr);
  LiveRunOptions options;
  options.prefill_chunk = 7;
  const auto chunked = started(ids_.size(), options);
  chunked->prefill(true, nullptr);
  EXPECT_LT(worst(chunked->logits(), whole->logits()), 1e-4);
  for (int layer = 0; layer < whole->shape().layers; ++layer) {
    const auto expected = whole->layer(layer);
    const auto found = chunked->layer(layer);
    EXPECT_LT(worst(found->attention_sum(), expected->attention_sum()), 1e-4) << layer;
    EXPECT_LT(worst(found->keys(Frame::pre_rope), expected->keys(Frame::pre_rope)), 1e-4) << layer;
  }
  if (whole->shape().rope.growth == RopeGrowth::fixed) {
    const auto decoded = started(5);
    decoded->prefill(false, nullptr);
    for (std::size_t token = 5; token < ids_.size(); ++token) {
      decoded->decode(ids_[token], nullptr);
    }
    EXPECT_LT(worst(decoded->logits(), whole->logits()), 1e-4);
  }
}

TEST_P(Families, KeysTurnedBackAreTheKeysBeforeRotation) {
  const auto run = started(ids_.size());
  run->prefill(false, nullptr);
  for (const nlohmann::json& stage : golden_.at("stages")) {
    if (stage.at("stage") == "keys_pre_rope") {
      const int layer = stage.at("layer").get<int>();
      expect_rows(stage.at("rows"), run->layer(layer)->keys(Frame::pre_rope), "keys turned back");
    }
  }
}

TEST_P(Families, Bfloat16StaysNear) {
  const auto exact = started(ids_.size());
  exact->prefill(false, nullptr);
  const auto run = started(ids_.size(), {}, "bfloat16");
  run->prefill(false, nullptr);
  EXPECT_LT(worst(run->logits(), exact->logits()), 0.06 * (1 + largest(exact->logits())));
}

INSTANTIATE_TEST_SUITE_P(Golden, Families,
                         ::testing::Values("llama2", "llama3", "llama_ntk", "mistral", "qwen2",
                                           "qwen3", "phi3", "phi3_long", "gemma2", "gemma3",
                                           "smollm3", "falcon"),
                         [](const auto& family) { return std::string(family.param); });

}  // namespace
}  // namespace kvscope::test
