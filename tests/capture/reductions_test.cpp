#include <ATen/ops/bmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "float64_attention.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/file_kind.h"
#include "recorded_run.h"

namespace kvscope::test {
namespace {

constexpr int prompt_tokens = 13;
constexpr int new_tokens = 5;
constexpr int planned = prompt_tokens + new_tokens;

/// Tokens 3, 4 and 8 leave both KV heads of both layers, 9 leaves head 0 only.
Decision cut_decision() {
  Decision decision;
  decision.query_heads = 4;
  decision.kv_heads = 2;
  decision.head_dim = 8;
  decision.tokens = decision.cut_tokens = prompt_tokens;
  decision.events.push_back({0, prompt_tokens, 0});
  for (int layer = 0; layer < 2; ++layer) {
    LayerDecision part = LayerDecision::keep_all(layer, 2, prompt_tokens);
    for (const auto& [kv_head, token] :
         std::vector<std::pair<int, int>>{{0, 3}, {1, 3}, {0, 4}, {1, 4}, {0, 8}, {1, 8}, {0, 9}}) {
      part.fate[part.cell(kv_head, token)] = Fate::evicted;
      part.removed_at[part.cell(kv_head, token)] = 0;
    }
    part.granted = {9, 10};
    decision.layers.push_back(part);
  }
  return decision;
}

bool lost(int kv_head, int token) {
  return token == 3 || token == 4 || token == 8 || (token == 9 && kv_head == 0);
}

/// A full capture with every reduction, whose steps run on the cut cache if `cut`.
class Reductions : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    request_.profile = Profile::full;
    request_.windows = {4};
    request_.new_tokens = new_tokens;
    request_.hooks = {HookPoint::attention_output};
    request_.head_output_norm = request_.received_by_segment = true;
    request_.attention_row = request_.evicted_mass = true;
    request_.logit_maps = true;
    request_.sample_queries = 3;
    request_.group_reduces = {GroupReduce::mean, GroupReduce::sum, GroupReduce::max};
    request_.snapshots = "0,2,5";
    const TokenTable prompt = asked_prompt(prompt_tokens, 4);
    model_ = fake_model();
    LiveRunOptions options;
    options.prefill_chunk = 6;
    const auto run = LiveRun::start(model_, prompt, options);
    Recorder recorder(
        path(), request_, index_for(*model_, prompt, request_), prompt,
        [&](int layer) { return model_->output_factor(layer); },
        [&](int layer) { return model_->output_weights(layer); });
    run->prefill(true, &recorder);
    recorder.prefill_logits(run->logits());
    if (GetParam()) {
      run->apply(cut_decision());
    }
    for (int step = 1; step <= new_tokens; ++step) {
      run->decode(2 + step, &recorder);
    }
    recorder.finish(new_tokens);
    reader_ = std::make_unique<CaptureReader>(path());
  }

  std::string path() const { return folder_ / "x.capture.h5"; }
  std::vector<float> whole(const std::string& name) const {
    const std::vector<std::int64_t> extent = reader_->shape(name);
    const std::int64_t cells =
        std::accumulate(extent.begin(), extent.end(), std::int64_t{1}, std::multiplies<>());
    std::vector<float> values(static_cast<std::size_t>(cells));
    reader_->read(name, std::vector<std::int64_t>(extent.size(), 0), extent, std::span(values));
    return values;
  }
  bool holds(int kv_head, int token) const { return !GetParam() || !lost(kv_head, token); }
  /// exp of the logits of a step's query on every token seen, whatever the cache holds.
  std::vector<double> weights(int step, int layer, int query_head) const {
    const auto q = whole("steps/queries");
    const auto k = whole(layer_dataset(layer, "keys"));
    const auto later = whole("steps/keys");
    const int kv_head = query_head / 2;
    std::vector<double> result;
    for (int token = 0; token < prompt_tokens + step; ++token) {
      double dot = 0;
      for (int channel = 0; channel < 8; ++channel) {
        const float key =
            token < prompt_tokens
                ? k[static_cast<std::size_t>((kv_head * prompt_tokens + token) * 8 + channel)]
                : later[static_cast<std::size_t>(
                      (((token - prompt_tokens) * 2 + layer) * 2 + kv_head) * 8 + channel)];
        const float query =
            q[static_cast<std::size_t>((((step - 1) * 2 + layer) * 4 + query_head) * 8 + channel)];
        dot += static_cast<double>(query) * static_cast<double>(key);
      }
      result.push_back(std::exp(dot / std::sqrt(8.0)));
    }
    return result;
  }

  CaptureFolder folder_;
  CaptureRequest request_;
  std::shared_ptr<const Model> model_;
  std::unique_ptr<CaptureReader> reader_;
};

TEST_P(Reductions, HeadOutputNormIsThatOfTheOutputThroughItsWeights) {
  for (int layer = 0; layer < 2; ++layer) {
    auto rows = whole(layer_dataset(layer, "attention_output"));
    const at::Tensor z = at::from_blob(rows.data(), {4, prompt_tokens, 8}, at::kFloat);
    const at::Tensor weights = model_->output_weights(layer).to(at::kFloat);
    const at::Tensor expected =
        at::linalg_vector_norm(at::bmm(z, weights), 2, at::IntArrayRef{-1}).contiguous();
    const auto norm = reader_->read_plane("head_output_norm", layer, prompt_tokens);
    for (std::size_t cell = 0; cell < norm.size(); ++cell) {
      EXPECT_NEAR(norm[cell], expected.const_data_ptr<float>()[cell], 1e-5f * (1 + norm[cell]));
    }
    auto steps = whole("steps/attention_output");
    const auto step_norm = whole("steps/head_output_norm");
    for (int step = 0; step < new_tokens; ++step) {
      const at::Tensor one =
          at::from_blob(steps.data() + (step * 2 + layer) * 32, {4, 1, 8}, at::kFloat);
      const at::Tensor of_step =
          at::linalg_vector_norm(at::bmm(one, weights), 2, at::IntArrayRef{1, 2}).contiguous();
      for (int head = 0; head < 4; ++head) {
        const float found = step_norm[static_cast<std::size_t>((step * 2 + layer) * 4 + head)];
        EXPECT_NEAR(found, of_step.const_data_ptr<float>()[head], 1e-5f * (1 + found));
      }
    }
  }
}

TEST_P(Reductions, SegmentsOfThePromptReceiveWhatTheMapGivesThem) {
  const auto received = whole("reduce/received_by_segment");
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < 4; ++head) {
      const auto map = float64_map(*reader_, layer, head);
      for (int query = 0; query < prompt_tokens; ++query) {
        double sums[5] = {};
        for (int key = 0; key <= query; ++key) {
          const double p = map[static_cast<std::size_t>(query)][static_cast<std::size_t>(key)];
          sums[key < 9 ? 1 : 2] += p;
          sums[4] += key < 4 ? p : 0;
        }
        for (int column = 0; column < 5; ++column) {
          const auto cell =
              static_cast<std::size_t>(((layer * 4 + head) * prompt_tokens + query) * 5 + column);
          EXPECT_NEAR(received[cell], sums[column], 2e-6) << query << " " << column;
        }
      }
    }
  }
}

TEST_P(Reductions, RowsOfStepsAreTheSoftmaxOverWhatTheCacheHolds) {
  const auto rows = whole("steps/attention_row");
  const auto segments = whole("steps/received_by_segment");
  for (int step = 1; step <= new_tokens; ++step) {
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 4; ++head) {
        const auto weight = weights(step, layer, head);
        double total = 0;
        for (int token = 0; token < prompt_tokens + step; ++token) {
          total += holds(head / 2, token) ? weight[static_cast<std::size_t>(token)] : 0;
        }
        const int row = ((step - 1) * 2 + layer) * 4 + head;
        double generated = 0;
        for (int token = 0; token < planned; ++token) {
          const float p = rows[static_cast<std::size_t>(row * planned + token)];
          if (token >= prompt_tokens + step) {
            EXPECT_TRUE(std::isnan(p)) << "not seen yet";
            continue;
          }
          const double expected =
              holds(head / 2, token) ? weight[static_cast<std::size_t>(token)] / total : 0;
          generated += token >= prompt_tokens ? expected : 0;
          EXPECT_NEAR(p, expected, 6e-4 * expected + 1e-6) << step << " " << token;  // float16
        }
        EXPECT_NEAR(segments[static_cast<std::size_t>(row * 5 + 3)], generated, 5e-6);
      }
    }
  }
}

TEST_P(Reductions, LogitsOfStepsAreThoseOfWhatTheCacheHolds) {
  const auto rows = whole("steps/logits_attention");
  for (int step = 1; step <= new_tokens; ++step) {
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 4; ++head) {
        const auto weight = weights(step, layer, head);
        const int row = ((step - 1) * 2 + layer) * 4 + head;
        for (int token = 0; token < planned; ++token) {
          const float s = rows[static_cast<std::size_t>(row * planned + token)];
          if (token >= prompt_tokens + step) {
            EXPECT_TRUE(std::isnan(s)) << "not seen yet";
          } else if (!holds(head / 2, token)) {
            EXPECT_EQ(s, -std::numeric_limits<float>::infinity());
          } else {
            EXPECT_NEAR(s, std::log(weight[static_cast<std::size_t>(token)]), 2e-5) << token;
          }
        }
      }
    }
  }
}

TEST_P(Reductions, GroupsAreJoinedAsTheyAreNamed) {
  int planes = 0;
  for (const std::string& name : reader_->datasets()) {
    if (!name.starts_with("reduce/group_")) {
      continue;
    }
    ++planes;
    const std::string reduce = name.substr(13, 4) == "mean" ? "mean" : name.substr(13, 3);
    EXPECT_EQ(reader_->attribute(name, "group_reduce"), reduce) << name;
    const std::string source = "reduce/" + name.substr(name.find('/', 13) + 1);
    EXPECT_EQ(reader_->attribute(source, "group_reduce"), "none") << source;
    const std::int64_t columns = reader_->shape(source).at(2);
    ASSERT_EQ(reader_->shape(name), (std::vector<std::int64_t>{2, 2, columns}));
    const auto joined = whole(name);
    const auto heads = whole(source);
    for (std::int64_t group = 0; group < 4; ++group) {
      for (std::int64_t token = 0; token < prompt_tokens; ++token) {
        const double a = heads[static_cast<std::size_t>(2 * group * columns + token)];
        const double b = heads[static_cast<std::size_t>((2 * group + 1) * columns + token)];
        const double expected = reduce == "mean"  ? (a + b) / 2
                                : reduce == "sum" ? a + b
                                                  : std::max(a, b);
        EXPECT_NEAR(joined[static_cast<std::size_t>(group * columns + token)], expected,
                    1e-6 * (1 + expected))
            << name;
      }
    }
  }
  EXPECT_EQ(planes, 3 * (3 + 1 + 3 + 3 + 1));  // sums, sampled, two names of a window, last query
}

TEST_P(Reductions, EvictedMassIsWhatTheLostKeysWouldHaveTaken) {
  const auto mass = whole("steps/evicted_mass");
  double largest = 0;
  for (int step = 1; step <= new_tokens; ++step) {
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 4; ++head) {
        const auto weight = weights(step, layer, head);
        double total = 0;
        double gone = 0;
        for (int token = 0; token < prompt_tokens + step; ++token) {
          total += weight[static_cast<std::size_t>(token)];
          gone += holds(head / 2, token) ? 0 : weight[static_cast<std::size_t>(token)];
        }
        const float found = mass[static_cast<std::size_t>(((step - 1) * 2 + layer) * 4 + head)];
        EXPECT_NEAR(found, gone / total, 2e-5) << step << " " << layer << " " << head;
        largest = std::max(largest, static_cast<double>(found));
      }
    }
  }
  EXPECT_EQ(largest > 0.05, GetParam());
}

TEST_P(Reductions, SnapshotsAddUpTheRowsAndShowTheSlots) {
  EXPECT_EQ(whole("snapshots/step"), (std::vector<float>{0, 2, 5}));
  const auto sums = whole("snapshots/attention_sum");
  const auto rows = whole("steps/attention_row");
  const auto token = whole("snapshots/slot_token");
  const auto position = whole("snapshots/slot_position");
  const auto multiplicity = whole("snapshots/slot_multiplicity");
  const int steps[] = {0, 2, 5};
  for (int snapshot = 0; snapshot < 3; ++snapshot) {
    const int seen = prompt_tokens + steps[snapshot];
    for (int layer = 0; layer < 2; ++layer) {
      const auto prompt = reader_->read_plane("attention_sum", layer, prompt_tokens);
      for (int head = 0; head < 4; ++head) {
        for (int column = 0; column < planned; ++column) {
          double expected = column < prompt_tokens
                                ? prompt[static_cast<std::size_t>(head * prompt_tokens + column)]
                                : 0;
          for (int step = 0; step < steps[snapshot]; ++step) {
            const float p =
                rows[static_cast<std::size_t>(((step * 2 + layer) * 4 + head) * planned + column)];
            expected += std::isnan(p) ? 0 : static_cast<double>(p);
          }
          const float found = sums[static_cast<std::size_t>(
              ((snapshot * 2 + layer) * 4 + head) * planned + column)];
          if (column < seen) {
            EXPECT_NEAR(found, expected, 2e-3) << snapshot << " " << column;  // float16 rows
          } else {
            EXPECT_TRUE(std::isnan(found));
          }
        }
      }
      for (int kv_head = 0; kv_head < 2; ++kv_head) {
        std::vector<int> expected;
        for (int one = 0; one < seen; ++one) {
          if (snapshot == 0 || holds(kv_head, one)) {
            expected.push_back(one);
          }
        }
        const int first = ((snapshot * 2 + layer) * 2 + kv_head) * planned;
        for (int slot = 0; slot < planned; ++slot) {
          const auto cell = static_cast<std::size_t>(first + slot);
          const bool real = slot < static_cast<int>(expected.size());
          const float place =
              real ? static_cast<float>(expected[static_cast<std::size_t>(slot)]) : -1;
          EXPECT_EQ(token[cell], place) << snapshot << " " << kv_head << " " << slot;
          if (real) {
            EXPECT_EQ(position[cell], place);
            EXPECT_EQ(multiplicity[cell], 1.0f);
          }
        }
      }
    }
  }
  EXPECT_EQ(check_file(path()), std::vector<std::string>{});
}

TEST_P(Reductions, KeysOfSnapshotsAreThoseOfTheirTokens) {
  const auto token = whole("snapshots/slot_token");
  const auto found = whole("snapshots/keys");
  for (int layer = 0; layer < 2; ++layer) {
    const auto prompt = whole(layer_dataset(layer, "keys"));
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      for (int slot = 0; slot < prompt_tokens - 4; ++slot) {
        const int row = ((1 * 2 + layer) * 2 + kv_head) * planned + slot;
        const int at = static_cast<int>(token[static_cast<std::size_t>(row)]);
        ASSERT_LT(at, prompt_tokens);
        for (int channel = 0; channel < 8; ++channel) {
          EXPECT_EQ(found[static_cast<std::size_t>(row * 8 + channel)],
                    prompt[static_cast<std::size_t>((kv_head * prompt_tokens + at) * 8 + channel)]);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cache, Reductions, testing::Values(false, true),
                         [](const auto& cut) { return std::string(cut.param ? "cut" : "full"); });

TEST(Snapshots, AddUpStepsThatAreNotStored) {
  const CaptureFolder folder;
  CaptureRequest request;
  request.profile = Profile::scores;
  request.windows = {4};
  request.new_tokens = new_tokens;
  request.snapshots = "5";
  record(folder / "all.capture.h5", request, fake_prompt(prompt_tokens));
  request.steps = "none";
  record(folder / "none.capture.h5", request, fake_prompt(prompt_tokens));
  const CaptureReader all(folder / "all.capture.h5");
  const CaptureReader none(folder / "none.capture.h5");
  EXPECT_EQ(none.index().steps, 0);
  std::vector<float> a(2 * 4 * planned);
  std::vector<float> b(a.size());
  all.read("snapshots/attention_sum", {0, 0, 0, 0}, {1, 2, 4, planned}, std::span(a));
  none.read("snapshots/attention_sum", {0, 0, 0, 0}, {1, 2, 4, planned}, std::span(b));
  EXPECT_EQ(a, b);
  double total = 0;
  for (const float sum : a) {
    total += static_cast<double>(sum);
  }
  EXPECT_NEAR(total, 2 * 4 * planned, 1e-3);  // every query of every head gives 1
  request.profile = Profile::window;
  EXPECT_THROW(price_capture(request, fake_model()->shape(), 9, ElementType::f4), Error);
}

}  // namespace
}  // namespace kvscope::test
