#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/logsumexp.h>

#include <filesystem>

#include "forward.h"
#include "golden_run.h"
#include "test_support.h"

namespace kvscope::test {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr double logit_tolerance = 2e-3;

/// A real model against transformers on the same dequantised weights (golden/real_model_parity.py).
class RealModelParity : public ::testing::Test {
 protected:
  /// Opens models/MODEL.gguf and its golden; skips the test where the model was not fetched.
  void open(const std::string& model, const std::string& golden) {
    const std::string path = std::string(KVSCOPE_SOURCE_DIR) + "/models/" + model + ".gguf";
    if (!std::filesystem::exists(path)) {
      GTEST_SKIP() << path << " is not there; ./run fetch " << model;
    }
    file_ = ModelFile::open(path);
    golden_ = read_golden(golden);
    ids_ = golden_.at("ids").get<Ids>();
  }

  std::shared_ptr<const Model> loaded(const char* dtype, bool keep = false) const {
    return Model::load(file_, {"cpu", dtype, 2, keep});
  }

  std::unique_ptr<LiveRun> started(const char* dtype, LiveRunOptions options = {},
                                   bool keep = false) const {
    return LiveRun::start(loaded(dtype, keep), prompt_of(ids_), std::move(options));
  }

  /// Weights kept quantised: prompt and 32 tokens decoded one by one.
  void expect_kept_weights_run_the_same() const {
    const auto dense = started("float32");
    const auto kept = started("float32", {}, true);
    dense->prefill(false, nullptr);
    kept->prefill(false, nullptr);
    EXPECT_LT(worst(kept->logits(), dense->logits()), 1e-3);
    EXPECT_EQ(greedy_tokens(*kept, 32), golden_.at("greedy").get<Ids>());
    greedy_tokens(*dense, 32);
    EXPECT_LT(worst(kept->logits(), dense->logits()), 1e-3);
  }

  /// What the golden is compared with: logits of its rows, and the best token everywhere.
  struct Found {
    Ids best;
    at::Tensor logits;  ///< [rows of the golden, vocabulary]
  };

  /// One pass over the prompt; logits in blocks, so that [tokens, vocabulary] is never whole.
  Found run_prompt(const char* dtype) const {
    constexpr std::int64_t block = 50;
    const auto model = std::dynamic_pointer_cast<const detail::LoadedModel>(loaded(dtype));
    const ModelShape& shape = model->shape();
    std::vector<detail::LayerState> layers(
        static_cast<std::size_t>(shape.layers),
        detail::LayerState(shape.kv_heads, shape.head_dim, 8, model->tensors()));
    for (detail::LayerState& layer : layers) {
      layer = layer.clone();
    }
    const std::vector<std::int32_t> positions = prompt_of(ids_).position;
    const int tokens = static_cast<int>(ids_.size());
    const at::Tensor hidden = run_pass(*model, layers, {ids_, positions, 0, tokens, true}, {});
    Found found;
    std::vector<at::Tensor> rows;
    const auto wanted = golden_.at("rows").get<std::vector<std::int64_t>>();
    for (std::int64_t first = 0; first < tokens; first += block) {
      const std::int64_t count = std::min<std::int64_t>(block, tokens - first);
      const at::Tensor logits = head_logits(*model, hidden.narrow(0, first, count));
      const at::Tensor best = logits.argmax(-1).to(at::kInt);
      found.best.insert(found.best.end(), best.const_data_ptr<int>(),
                        best.const_data_ptr<int>() + count);
      for (const std::int64_t row : wanted) {
        if (row >= first && row < first + count) {
          rows.push_back(logits.narrow(0, row - first, 1).clone());
        }
      }
    }
    found.logits = at::cat(rows);
    return found;
  }

  /// Largest distance from the golden's logits and log-sum-exps.
  double distance(const at::Tensor& logits) const {
    const auto columns = golden_.at("columns").get<Ids>();
    double largest =
        worst(at::logsumexp(logits, {-1}), golden_.at("log_sum_exp").get<std::vector<double>>());
    for (std::int64_t row = 0; row < logits.size(0); ++row) {
      const auto expected =
          golden_["logits"][static_cast<std::size_t>(row)].get<std::vector<double>>();
      for (std::size_t column = 0; column < columns.size(); ++column) {
        const double found = logits[row][columns[column]].item<double>();
        largest = std::max(largest, std::abs(found - expected[column]));
      }
    }
    return largest;
  }

  /// Positions whose best token is another one, none of which may have led by `lead` or more.
  int changed_choices(const Ids& best, double lead) const {
    const auto expected = golden_.at("top1").get<Ids>();
    const auto leads = golden_.at("lead").get<std::vector<double>>();
    int changed = 0;
    for (std::size_t row = 0; row < expected.size(); ++row) {
      if (best[row] != expected[row]) {
        ++changed;
        EXPECT_LT(leads[row], lead) << "position " << row;
      }
    }
    return changed;
  }

  void expect_float32_parity() const {
    const Found found = run_prompt("float32");
    EXPECT_EQ(found.best, golden_.at("top1").get<Ids>());
    EXPECT_LT(distance(found.logits), logit_tolerance);
    const auto run = started("float32");
    run->prefill(false, nullptr);
    EXPECT_LT(worst(run->logits(), found.logits[found.logits.size(0) - 1]), 1e-4);
    const auto greedy = golden_.at("greedy").get<Ids>();
    ASSERT_EQ(greedy.size(), 32u);
    EXPECT_EQ(greedy_tokens(*run, greedy.size()), greedy);
  }

  std::shared_ptr<const ModelFile> file_;
  nlohmann::json golden_;
  Ids ids_;
};

class Smollm2Parity : public RealModelParity {
 protected:
  void SetUp() override { open("smollm2", "smollm2_parity.json"); }
};

TEST_F(Smollm2Parity, Float32LogitsAndGreedyTokensEqualTransformers) {
  ASSERT_EQ(ids_.size(), 500u);
  expect_float32_parity();
}

TEST_F(Smollm2Parity, KeptWeightsRunTheSame) {
  expect_kept_weights_run_the_same();
}

TEST_F(Smollm2Parity, ChunkedPrefillEqualsWholePrefill) {
  const auto whole = started("float32");
  whole->prefill(true, nullptr);
  LiveRunOptions options;
  options.prefill_chunk = 96;
  const auto run = started("float32", options);
  run->prefill(true, nullptr);
  EXPECT_LT(worst(run->logits(), whole->logits()), 5e-4);
  for (const int layer : {0, 14, 29}) {
    const auto chunked = run->layer(layer);
    const auto expected = whole->layer(layer);
    EXPECT_LT(worst(chunked->keys(Frame::post_rope), expected->keys(Frame::post_rope)), 1e-3);
    EXPECT_LT(worst(chunked->values(), expected->values()), 1e-3);
    EXPECT_LT(worst(chunked->attention_sum(), expected->attention_sum()), 2e-2) << layer;
  }
  EXPECT_EQ(greedy_tokens(*run, 8), greedy_tokens(*whole, 8));
}

// bfloat16 keeps 8 bits: logits of about 20 come out within about one, and a choice can change only
// where its lead was that small.
TEST_F(Smollm2Parity, Bfloat16ChangesOnlyCloseChoices) {
  const Found found = run_prompt("bfloat16");
  EXPECT_LT(distance(found.logits), 1.5);
  EXPECT_LT(changed_choices(found.best, 0.75), 25);
}

TEST_F(Smollm2Parity, APromptBeyondTheContextIsRefusedBeforeAnyWork) {
  const int context = file_->config().context_length;
  ASSERT_EQ(context, 8192);
  while (static_cast<int>(ids_.size()) <= context) {
    ids_.push_back(ids_[ids_.size() - 500]);
  }
  try {
    started("float32");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
    EXPECT_NE(error.message().find("8193"), std::string::npos) << error.message();
    EXPECT_NE(error.message().find("8192"), std::string::npos) << error.message();
  }
}

/// Norms around each block, QK norms, scaled embeddings, windows of 512 in 15 of 18 layers with a
/// rotation of their own; the prompt is longer than the window.
class Gemma3Parity : public RealModelParity {
 protected:
  void SetUp() override { open("gemma3-270m", "gemma3_parity.json"); }
};

TEST_F(Gemma3Parity, Float32LogitsAndGreedyTokensEqualTransformers) {
  ASSERT_EQ(ids_.size(), 640u);
  expect_float32_parity();
}

TEST_F(Gemma3Parity, KeptWeightsRunTheSame) {
  expect_kept_weights_run_the_same();
}

TEST_F(Gemma3Parity, Bfloat16ChangesOnlyCloseChoices) {
  const Found found = run_prompt("bfloat16");
  EXPECT_LT(distance(found.logits), 1.5);
  EXPECT_LT(changed_choices(found.best, 0.75), 40);
}

}  // namespace
}  // namespace kvscope::test
