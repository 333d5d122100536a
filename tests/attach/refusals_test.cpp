#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "attached_model.h"
#include "kvscope/storage/capture_reader.h"

namespace kvscope::test {
namespace {

constexpr int rows = 5;

/// A call that is recorded: the first of a prompt of five tokens, in layer 0.
SeenAttention sound_call(const ModelShape& shape) {
  SeenAttention seen;
  seen.query = at::ones({1, shape.query_heads, rows, shape.head_dim});
  seen.key = seen.value = at::ones({1, shape.kv_heads, rows, shape.head_dim});
  seen.scale = shape.attention_scale;
  seen.mask = built_mask(0, rows, 0, rows, 0);
  return seen;
}

struct Refusal {
  const char* name;
  std::function<void(SeenAttention&)> spoil;
  const char* what;
  const char* kernel = "sdpa";
};

class Refusals : public testing::TestWithParam<Refusal> {};

TEST_P(Refusals, ComeWithTheFirstCallAndLeaveNoFile) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  nlohmann::json request = request_for(folder / "x.capture.h5", model->shape(), "scores");
  request["model"] = model_json(model->shape(), GetParam().kernel);
  const Operators operators(request, output_weights_of(*model));
  operators.begin_pass({1, 2, 3, 4, 5}, 0);
  ASSERT_EQ(operators.status(), 0) << operators.error();
  SeenAttention seen = sound_call(model->shape());
  GetParam().spoil(seen);
  operators.attention(seen);
  EXPECT_EQ(operators.status(), 1);
  EXPECT_NE(operators.error().find(GetParam().what), std::string::npos) << operators.error();
  EXPECT_NE(operators.error().find("\nwhere: "), std::string::npos) << operators.error();
  EXPECT_NE(operators.error().find("\nfix:   "), std::string::npos) << operators.error();
  operators.attention(sound_call(model->shape()));  // nothing more happens
  const std::string error = operators.error();
  EXPECT_EQ(operators.close().at("error"), error);
  EXPECT_TRUE(folder.empty());
}

at::Tensor float_mask(double hidden, double visible) {
  const at::Tensor seen = built_mask(0, rows, 0, rows, 0);
  return at::zeros({1, 1, rows, rows}).add_(visible).masked_fill_(seen.logical_not(), hidden);
}

INSTANTIATE_TEST_SUITE_P(
    Inputs, Refusals,
    testing::Values(
        Refusal{"batch",
                [](SeenAttention& seen) {
                  seen.query = seen.query.expand({2, -1, -1, -1});
                  seen.key = seen.value = seen.key.expand({2, -1, -1, -1});
                },
                "a batch of 2 sequences"},
        Refusal{"left_padding",
                [](SeenAttention& seen) { seen.mask->narrow(3, 0, 1).fill_(false); },
                "the mask is not causal (padding"},
        Refusal{"padding_of_two_axes",
                [](SeenAttention& seen) {
                  seen.mask = at::ones({1, rows}, at::kBool);
                  seen.mask->narrow(1, 0, 1).fill_(false);
                },
                "the mask hides padding"},
        Refusal{"prefix_seen_in_full", [](SeenAttention& seen) { seen.mask->fill_(true); },
                "the mask is not causal"},
        Refusal{"mask_of_another_shape",
                [](SeenAttention& seen) {
                  seen.mask = at::ones({1, 4, rows, rows}, at::kBool);
                },
                "a mask of shape [1, 4, 5, 5] for 5 queries over 5 keys"},
        Refusal{"mask_of_another_rank",
                [](SeenAttention& seen) {
                  seen.mask = at::ones({rows, rows, 1}, at::kBool);
                },
                "a mask of shape [5, 5, 1]"},
        Refusal{"whole_numbers", [](SeenAttention& seen) { seen.mask = seen.mask->to(at::kInt); },
                "the mask holds whole numbers"},
        Refusal{"finite_biases",
                [](SeenAttention& seen) {
                  seen.mask = float_mask(-std::numeric_limits<double>::infinity(), -0.25);
                },
                "finite biases"},
        Refusal{"no_mask_for_eager", [](SeenAttention& seen) { seen.mask.reset(); },
                "no mask came for 5 queries", "eager"},
        Refusal{"window_of_another_layer", [](SeenAttention& seen) { seen.window = 3; },
                "its window is 3, the model's 0"},
        Refusal{"another_scale", [](SeenAttention& seen) { seen.scale = 1; }, "it scales by 1"},
        Refusal{"a_softcap", [](SeenAttention& seen) { seen.softcap = 30; }, "its softcap is 30"},
        Refusal{"expanded_kv_heads",
                [](SeenAttention& seen) { seen.key = seen.key.repeat_interleave(2, 1); },
                "the key is [1, 4, 5, 8], the model says [1, 2, 5, 8]"},
        Refusal{"fewer_keys",
                [](SeenAttention& seen) { seen.key = seen.value = seen.key.narrow(2, 0, 3); },
                "there are fewer keys than queries"},
        Refusal{"no_such_layer", [](SeenAttention& seen) { seen.layer = 2; },
                "the model has 2 layers"}),
    [](const auto& one) { return std::string(one.param.name); });

TEST(Masks, FormsThatSayTheSameAreTaken) {
  const auto model = attached_model(false, 0);
  const double lowest = std::numeric_limits<float>::lowest();
  const std::vector<std::optional<at::Tensor>> masks = {
      std::nullopt,
      built_mask(0, rows, 0, rows, 0),
      float_mask(lowest, 0),
      float_mask(-std::numeric_limits<double>::infinity(), 0),
      float_mask(lowest, 0).to(at::kHalf),
      float_mask(lowest, 0).to(at::kBFloat16),
      at::ones({1, rows}, at::kLong)};
  for (std::size_t index = 0; index < masks.size(); ++index) {
    const CaptureFolder folder;
    const Operators operators(request_for(folder / "x.capture.h5", model->shape(), "window"),
                              output_weights_of(*model));
    operators.begin_pass({1, 2, 3, 4, 5}, 0);
    for (int layer = 0; layer < 2; ++layer) {
      SeenAttention seen = sound_call(model->shape());
      seen.layer = layer;
      seen.mask = masks[index];
      operators.attention(seen);
    }
    operators.end_pass();
    EXPECT_EQ(operators.close().at("error"), "") << index;
    EXPECT_FALSE(std::filesystem::is_empty(std::filesystem::path(folder / "")));
  }
}

std::string opened_with(const nlohmann::json& request, const Model& model) {
  const Operators operators(request, output_weights_of(model));
  EXPECT_EQ(operators.status(), 1);
  const std::string error = operators.error();
  operators.close();
  return error;
}

TEST(Requests, AreRefusedBeforeAnythingRuns) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const std::string path = folder / "x.capture.h5";
  const nlohmann::json sound = request_for(path, model->shape(), "window");
  const auto with = [&](const char* name, const nlohmann::json& value) {
    nlohmann::json request = sound;
    request[name] = value;
    return opened_with(request, *model);
  };
  EXPECT_NE(with("profile", "scrores").find("scores"), std::string::npos);
  EXPECT_NE(with("windwos", 3).find("there is no option 'windwos'"), std::string::npos);
  EXPECT_NE(with("windows", "four").find("'windows' has a wrong type"), std::string::npos);
  EXPECT_NE(with("windows", {0}).find("positive and ascending"), std::string::npos);
  EXPECT_NE(with("new_tokens", -1).find("new_tokens is -1"), std::string::npos);
  EXPECT_NE(with("hooks", {"residuals"}).find("no hook point"), std::string::npos);
  EXPECT_NE(with("path", "").find("'path' is missing"), std::string::npos);
  EXPECT_NE(with("model", 3).find("no JSON object"), std::string::npos);
  nlohmann::json odd = sound;
  odd["model"]["query_heads"] = 5;
  EXPECT_NE(opened_with(odd, *model).find("heads"), std::string::npos);
  std::ofstream(path) << "mine";
  EXPECT_NE(opened_with(sound, *model).find("the output file exists"), std::string::npos);
}

TEST(Requests, PositionsMustBeginAtZero) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const Operators operators(request_for(folder / "x.capture.h5", model->shape(), "window"),
                            output_weights_of(*model));
  operators.begin_pass({1, 2, 3}, 2);
  EXPECT_EQ(operators.status(), 1);
  EXPECT_NE(operators.error().find("token 0 stands at position 2"), std::string::npos);
  EXPECT_NE(operators.error().find("unpadded"), std::string::npos);
}

TEST(Requests, AHookPointThatIsNoneIsNamedAndNotThrown) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const Operators operators(request_for(folder / "x.capture.h5", model->shape(), "window"),
                            output_weights_of(*model));
  operators.begin_pass({1, 2, 3}, 0);
  EXPECT_NO_THROW(operators.hook("residuals", 0, at::zeros({3, 24})));
  EXPECT_EQ(operators.status(), 1);
  EXPECT_NE(operators.error().find("residuals"), std::string::npos);
}

TEST(Requests, LayersThatDoNotCallAreNamed) {
  const CaptureFolder folder;
  const auto model = attached_model(false, 0);
  const Operators operators(request_for(folder / "x.capture.h5", model->shape(), "window"),
                            output_weights_of(*model));
  operators.begin_pass({1, 2, 3, 4, 5}, 0);
  operators.attention(sound_call(model->shape()));
  operators.end_pass();
  EXPECT_EQ(operators.status(), 1);
  EXPECT_NE(operators.error().find("layers 1 did not call"), std::string::npos);
}

}  // namespace
}  // namespace kvscope::test
