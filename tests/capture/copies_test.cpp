#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "gguf_converter.h"
#include "golden_run.h"
#include "hf_folder.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/file_kind.h"
#include "read_whole.h"
#include "recorded_run.h"

namespace kvscope::test {
namespace {

std::string half_bytes(const std::vector<float>& values) {
  std::vector<std::uint16_t> bits;
  for (const float value : values) {
    bits.push_back(c10::Half(value).x);
  }
  return {reinterpret_cast<const char*>(bits.data()), bits.size() * 2};
}

/// Blocks of 32: a half scale, then 32 signed bytes.
std::string q8_0_bytes(const std::vector<float>& values) {
  std::string bytes;
  for (std::size_t first = 0; first < values.size(); first += 32) {
    float largest = 0;
    for (std::size_t at = first; at < first + 32; ++at) {
      largest = std::max(largest, std::abs(values[at]));
    }
    const c10::Half scale(largest / 127);
    bytes.append(reinterpret_cast<const char*>(&scale.x), 2);
    for (std::size_t at = first; at < first + 32; ++at) {
      const float quotient = scale.x == 0 ? 0 : values[at] / static_cast<float>(scale);
      bytes.push_back(
          static_cast<char>(std::lround(std::min(127.0f, std::max(-127.0f, quotient)))));
    }
  }
  return bytes;
}

constexpr GgufEncoding half_matrices{1, half_bytes};
constexpr GgufEncoding q8_0_matrices{8, q8_0_bytes};

/// Everything a run shows: every hook point, reduction and map, of a prompt in two chunks and of
/// four steps.
std::string captured(const std::string& model_path, const std::string& path,
                     const RuntimeOptions& runtime = {"cpu", "float32", 2}) {
  const auto model = Model::load(ModelFile::open(model_path), runtime);
  std::vector<std::int32_t> ids;
  for (int token = 0; token < 21; ++token) {
    ids.push_back((token * 29 + 5) % 96);
  }
  const TokenTable prompt = prompt_of(ids);
  CaptureRequest request;
  request.profile = Profile::full;
  request.windows = {4};
  request.new_tokens = 4;
  request.attention_maps = true;
  request.head_output_norm = request.received_by_segment = request.attention_row = true;
  for (int index = 0; index < hook_points; ++index) {
    request.hooks.push_back(static_cast<HookPoint>(index));
  }
  LiveRunOptions options;
  options.prefill_chunk = 13;
  const auto run = LiveRun::start(model, prompt, options);
  Recorder recorder(
      path, request, index_for(*model, prompt, request), prompt,
      [&](int layer) { return model->output_factor(layer); },
      [&](int layer) { return model->output_weights(layer); });
  run->prefill(false, &recorder);
  recorder.prefill_logits(run->logits());
  for (int step = 1; step <= 4; ++step) {
    run->decode((step * 17) % 96, &recorder);
  }
  recorder.finish(4);
  return path;
}

/// Of each dataset of the run's numbers: the largest difference over the largest magnitude. Ranks
/// and times are left out unless `exact`; NaN stands for NaN.
std::map<std::string, double> differences(const std::string& a_path, const std::string& b_path,
                                          bool exact) {
  const CaptureReader a(a_path);
  const CaptureReader b(b_path);
  EXPECT_EQ(a.datasets(), b.datasets());
  std::map<std::string, double> worst;
  for (const std::string& name : a.datasets()) {
    const bool ranked = name.ends_with("top_key") || name.ends_with("top_probability") ||
                        name.ends_with("logit_token") || name.ends_with("logit_logprob");
    if (name.starts_with("status/") || name.ends_with("_ns") || (ranked && !exact)) {
      continue;
    }
    const auto left = read_whole(a, name);
    const auto right = read_whole(b, name);
    EXPECT_EQ(left.size(), right.size()) << name;
    double difference = 0;
    double magnitude = 1e-6;
    for (std::size_t cell = 0; cell < left.size(); ++cell) {
      EXPECT_EQ(std::isnan(left[cell]), std::isnan(right[cell])) << name << " " << cell;
      if (!std::isnan(left[cell])) {
        const auto x = static_cast<double>(left[cell]);
        difference = std::max(difference, std::abs(x - static_cast<double>(right[cell])));
        magnitude = std::max(magnitude, std::abs(x));
      }
    }
    worst[name] = difference / magnitude;
  }
  EXPECT_GT(worst.size(), 100u);
  return worst;
}

/// `exact`: GGUF says the model's rotation to the last bit; elsewhere scaling goes through other
/// numbers that agree to 1e-6.
struct Family {
  const char* name;
  const char* architecture;
  bool exact;
};

class Copies : public testing::TestWithParam<Family> {
 protected:
  /// A folder of the golden model in `folder`, and its GGUF beside it; returns both paths.
  std::pair<std::string, std::string> write(const std::string& name, bool half) const {
    nlohmann::json golden = read_golden(std::string("family_") + GetParam().name + ".json");
    if (golden.at("config").contains("query_pre_attn_scalar")) {
      golden["config"]["query_pre_attn_scalar"] = golden["config"]["head_dim"];  // GGUF's only one
    }
    const std::string folder = folder_ / name;
    std::filesystem::create_directories(folder);
    write_golden_folder(golden, folder, half ? "F16" : "F32", half ? half_bytes : float_bytes);
    const auto hf = ModelFile::open(folder);
    GgufConverter converter(*hf, GetParam().architecture, half ? half_matrices : GgufEncoding{});
    add_metadata(converter, GetParam().name, hf->config(), golden.at("config"));
    converter.all();
    const std::string gguf = folder_ / (name + ".gguf");
    std::ofstream(gguf, std::ios::binary) << converter.writer.bytes();
    return {folder, gguf};
  }

  CaptureFolder folder_;
};

/// Of runs whose sums are rounded in another order. Residuals of the self-check are made of
/// rounding; attention is stored in float16, whose steps below one are up to 4.9e-4.
double tolerance(const std::string& dataset) {
  if (dataset.starts_with("reduce/self_check")) {
    return 1.0;
  }
  return dataset.ends_with("/attention") ? 5e-4 : 1e-4;
}

TEST_P(Copies, GgufAndSafetensorsGiveTheSameCapture) {
  for (const bool half : {false, true}) {
    const std::string name = half ? "f16" : "f32";
    const auto [hf, gguf] = write(name, half);
    const std::string a = captured(hf, folder_ / (name + "_hf.capture.h5"));
    const std::string b = captured(gguf, folder_ / (name + "_gguf.capture.h5"));
    for (const auto& [dataset, difference] : differences(a, b, GetParam().exact)) {
      if (GetParam().exact) {
        EXPECT_EQ(difference, 0.0) << name << " " << dataset;
      } else {
        EXPECT_LT(difference, tolerance(dataset)) << name << " " << dataset;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, Copies,
    testing::Values(Family{"llama2", "llama", true}, Family{"llama3", "llama", false},
                    Family{"qwen2", "qwen2", true}, Family{"qwen3", "qwen3", false},
                    Family{"phi3", "phi3", false}, Family{"gemma2", "gemma2", true},
                    Family{"falcon", "falcon", true}),
    [](const auto& family) { return std::string(family.param.name); });

class Precisions : public Copies {};

/// 8 bits of mantissa round to 2^-9 of a number; three layers and sums of a hundred products let
/// errors grow. Attention is a probability: absolute.
TEST_P(Precisions, Bfloat16RunsAreNearTheFloat32Run) {
  const auto paths = write("f32", false);
  const std::string a = captured(paths.first, folder_ / "f32.capture.h5");
  const std::string b = captured(paths.first, folder_ / "bf16.capture.h5", {"cpu", "bfloat16", 2});
  EXPECT_EQ(CaptureReader(b).index().compute_dtype, "bfloat16");
  int compared = 0;
  for (const auto& [dataset, difference] : differences(a, b, false)) {
    if (!dataset.starts_with("reduce/self_check")) {
      EXPECT_LT(difference, 0.06) << dataset;
      ++compared;
    }
  }
  EXPECT_GT(compared, 100);
  int rounded = 0;
  for (const std::string& line : describe_datasets(b)) {
    const bool tensor = line.starts_with("/layers/") || line.starts_with("/model/e") ||
                        line.starts_with("/model/f");
    const bool own_type = line.find("/attention ") != std::string::npos ||
                          line.find("/output_factor") != std::string::npos;
    if (tensor && !own_type) {
      EXPECT_NE(line.find("bfloat16"), std::string::npos) << line;
      ++rounded;
    }
  }
  EXPECT_GT(rounded, 40);
  const CaptureReader reader(b);
  for (const std::string& name : {std::string("layers/001/residual_out"), std::string("steps/keys"),
                                  std::string("layers/000/keys")}) {
    for (const float value : read_whole(reader, name)) {
      ASSERT_TRUE(std::isfinite(value)) << name;
      ASSERT_EQ(value, static_cast<float>(c10::BFloat16(value))) << name;
    }
  }
  EXPECT_EQ(check_file(b), std::vector<std::string>{});
}

/// Weights in blocks of 8 bits are what their dequantised copy in float32 is, to the last bit; kept
/// in blocks they give the same sums in another order.
TEST_P(Precisions, QuantisedWeightsAreTheirDequantisedCopy) {
  const auto paths = write("f32", false);
  const nlohmann::json golden = read_golden(std::string("family_") + GetParam().name + ".json");
  const auto save = [&](const ModelFile& file, GgufEncoding encoding, const std::string& name) {
    GgufConverter converter(file, GetParam().architecture, encoding);
    add_metadata(converter, GetParam().name, file.config(), golden.at("config"));
    converter.all();
    std::ofstream(folder_ / name, std::ios::binary) << converter.writer.bytes();
    return folder_ / name;
  };
  const std::string q8 = save(*ModelFile::open(paths.first), q8_0_matrices, "q8.gguf");
  const std::string dense = save(*ModelFile::open(q8), {}, "dense.gguf");
  const std::string a = captured(dense, folder_ / "dense.capture.h5");
  const std::string b = captured(q8, folder_ / "q8.capture.h5");
  for (const auto& [dataset, difference] : differences(a, b, true)) {
    EXPECT_EQ(difference, 0.0) << dataset;
  }
  const std::string kept = captured(q8, folder_ / "kept.capture.h5", {"cpu", "float32", 2, true});
  for (const auto& [dataset, difference] : differences(a, kept, false)) {
    EXPECT_LT(difference, tolerance(dataset)) << dataset;
  }
  const std::string original = captured(paths.first, folder_ / "original.capture.h5");
  double largest = 0;
  for (const auto& [dataset, difference] : differences(original, b, false)) {
    largest = std::max(largest, dataset.starts_with("reduce/self_check") ? 0 : difference);
  }
  EXPECT_GT(largest, 1e-4);  // quantising does change the run
  EXPECT_LT(largest, 0.1);
}

INSTANTIATE_TEST_SUITE_P(Families, Precisions,
                         testing::Values(Family{"llama2", "llama", true},
                                         Family{"qwen2", "qwen2", true}),
                         [](const auto& family) { return std::string(family.param.name); });

}  // namespace
}  // namespace kvscope::test
