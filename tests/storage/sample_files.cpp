#include "sample_files.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>

namespace kvscope::test {

Folder::Folder() {
  std::string name = (std::filesystem::temp_directory_path() / "kvscope-storage-XXXXXX").string();
  path_ = mkdtemp(name.data());
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> Folder::names() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

CaptureIndex sample_index() {
  CaptureIndex index;
  index.created_by = "kvscope test";
  index.created_utc = "2026-01-01T00:00:00Z";
  index.model_name = "sample é";
  index.model_hash = "0123456789abcdef";
  index.architecture = "llama";
  index.weights_dtype = "F32";
  index.compute_dtype = index.cache_dtype = "bfloat16";
  index.device = "cpu";
  index.request_json = R"({"profile":"qkv"})";
  index.capture_hash = "fedcba9876543210";
  index.profile = Profile::qkv;
  index.shape.layers = 8;
  index.shape.query_heads = 4;
  index.shape.kv_heads = 2;
  index.shape.head_dim = 4;
  index.shape.hidden_dim = 16;
  index.shape.vocabulary = 50;
  index.shape.attention_scale = 0.5;
  index.shape.logit_softcap = 30;
  index.shape.layer_windows = {0, 4, 0, 4, 0, 4, 0, 4};
  index.shape.rope.base = 500.0;
  index.shape.rope.dims = 4;
  index.shape.rope.inverse_frequency = {1.0, 0.04472135954999579};
  index.shape.rope.attention_factor = 1.25;
  index.layers = {1, 6};
  index.windows = {2, 4};
  index.tokens = 9;
  index.prompt_tokens = 6;
  index.context_tokens = 4;
  index.first_query = 2;
  return index;
}

TokenTable sample_prompt() {
  TokenTable prompt;
  prompt.append(1, 0, Segment::chat_template, "<s>");
  prompt.append(17, 1, Segment::context, " h\xC3");  // half a character
  prompt.append(18, 2, Segment::context, "\xA9");
  prompt.append(19, 3, Segment::context, "");
  prompt.append(20, 4, Segment::question, " why");
  prompt.append(21, 5, Segment::question, "?");
  prompt.prompt_tokens = 6;
  prompt.context_tokens = 4;
  return prompt;
}

std::vector<DatasetSpec> sample_datasets() {
  std::vector<DatasetSpec> specs(4);
  specs[0].path = "reduce/attention_sum";
  specs[0].shape = {2, 4, 9};
  specs[0].chunk = {1, 8, 16384};
  specs[0].labels = {"layer", "query_head", "token"};
  specs[0].units = "attention";
  specs[0].formula = "sum_i p_ij";
  specs[1].path = "layers/001/keys";
  specs[1].type = ElementType::bf16;
  specs[1].shape = {2, 6, 4};
  specs[1].chunk = {1, 2048, 4};
  specs[2].path = "steps/entropy";
  specs[2].shape = {3, 2, 4};
  specs[2].chunk = {32, 2, 4};
  specs[3].path = "steps/token";
  specs[3].type = ElementType::i4;
  specs[3].shape = {3};
  specs[3].chunk = {64};
  return specs;
}

float sample_value(std::size_t cell) {
  return static_cast<float>(std::sin(static_cast<double>(cell) + 1.0));
}

void write_sample_capture(const std::string& path, bool force) {
  const CaptureIndex index = sample_index();
  CaptureWriter writer(path, index, sample_prompt(), sample_datasets(), {force, false});
  const auto values = [](std::size_t count) {
    std::vector<float> cells(count);
    for (std::size_t cell = 0; cell < count; ++cell) {
      cells[cell] = sample_value(cell);
    }
    return cells;
  };
  writer.write("reduce/attention_sum", {0, 0, 0}, {2, 4, 6}, std::span<const float>(values(48)));
  writer.write("layers/001/keys", {0, 0, 0}, {2, 6, 4}, std::span<const float>(values(48)));
  for (int step = 0; step < 2; ++step) {
    writer.write("steps/entropy", {step, 0, 0}, {1, 2, 4}, std::span<const float>(values(8)));
    const std::vector<std::int32_t> token = {40 + step};
    writer.write("steps/token", {step}, {1}, std::span<const std::int32_t>(token));
    writer.append_token(40 + step, 6 + step, step == 0 ? " be" : "cause");
  }
  writer.finish(2);
}

Decision sample_decision() {
  Decision decision;
  decision.method = "hand|pair";
  decision.preset = "hand";
  decision.descriptor_json = R"({"name":"hand","paper":"é"})";
  decision.keep = "0.5";
  decision.rounding = "reference";
  decision.budget_slots = 14;
  decision.by_method = false;
  decision.replayed = true;
  decision.replay_exact = false;
  decision.capture_hash = "fedcba9876543210";
  decision.model_name = "sample";
  decision.query_heads = 4;
  decision.kv_heads = 2;
  decision.head_dim = 3;
  decision.tokens = 7;
  decision.cut_tokens = 6;
  decision.form = {Frame::pre_rope, CacheForm::Positions::multiplicity, CacheForm::Values::sum, 4};
  decision.term_names = {"norm", "mass"};
  decision.events = {{0, 4, 1000}, {1, 6, 2000}};
  for (const int number : {1, 6}) {
    LayerDecision layer = LayerDecision::keep_all(number, 2, 7);
    const auto lose = [&](int kv_head, int token, Fate fate, Reason reason, unsigned event) {
      layer.fate[layer.cell(kv_head, token)] = fate;
      layer.reason[layer.cell(kv_head, token)] = reason;
      layer.removed_at[layer.cell(kv_head, token)] = event;
    };
    layer.reason[layer.cell(0, 0)] = Reason::sink;
    lose(0, 1, Fate::merged, Reason::score, 0);
    lose(0, 3, Fate::evicted, Reason::merger_declined, 1);
    lose(0, 4, Fate::dropped, Reason::score, 1);
    layer.fate[layer.cell(1, 2)] = Fate::skipped;
    for (const int token : {0, 5}) {
      lose(1, token, Fate::evicted, Reason::threshold, 1);
    }
    layer.edges = {{0, 1, 2, 0, 0.25f, 0.125f, 1.0f, -1}, {0, 2, 2, 0, 0.75f, 0.875f, 1.0f, 0}};
    layer.key_rows = {0.5f, -1.5f, 2.5f};
    layer.key_row_dim = 3;
    layer.granted = {3, 4};
    layer.cut = {{3, 0.5f, 0.25f}, {4, std::numeric_limits<float>::quiet_NaN(), 1.0f}};
    for (std::size_t cell = 0; cell < 14; ++cell) {
      layer.scores.push_back(cell == 3 ? std::numeric_limits<float>::quiet_NaN()
                                       : sample_value(cell));
    }
    for (std::size_t cell = 0; cell < 28; ++cell) {
      layer.terms.push_back(sample_value(cell + 14));
    }
    decision.layers.push_back(layer);
  }
  decision.metrics.queries = "3 decode queries";
  decision.metrics.query_count = 3;
  decision.metrics.seen_by_method = true;
  for (std::size_t cell = 0; cell < 8; ++cell) {
    decision.metrics.output_error.push_back(sample_value(cell));
    decision.metrics.retained_mass.push_back(sample_value(cell + 8));
    decision.metrics.retained_mass_no_sinks.push_back(sample_value(cell + 16));
  }
  for (std::size_t cell = 0; cell < 28; ++cell) {
    decision.metrics.lost_error.push_back(sample_value(cell));
  }
  return decision;
}

Spectrum sample_spectrum() {
  Spectrum spectrum;
  spectrum.model_name = "sample";
  spectrum.model_hash = "0123456789abcdef";
  spectrum.weights_dtype = "F32";
  spectrum.query_heads = 4;
  spectrum.kv_heads = 2;
  spectrum.head_dim = 4;
  spectrum.hidden_dim = 16;
  spectrum.layers = {0, 3};
  spectrum.projections = {"q", "k"};
  SpectrumTable table;
  table.shape = {2, 3};
  table.axes = {"layer", "rank"};
  table.values = {3, 2, 1, std::nan(""), 1e-12, 0};
  table.units = "1";
  table.long_name = "eigenvalues";
  table.formula = "eig(W^T W)";
  spectrum.tables["spectrum/layer/q/eigenvalues"] = table;
  table.values = {7, 8, 9, 1, std::nan(""), 3};
  spectrum.tables["metrics/layer/q/energy_rank"] = table;  // whole numbers on disk
  spectrum.status = {SpectrumStatus::ok, SpectrumStatus::missing, SpectrumStatus::zero,
                     SpectrumStatus::ok};
  spectrum.message = {"", "no such tensor", "all zero", ""};
  return spectrum;
}

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace kvscope::test
