#include "load.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "kvscope/core/error.h"
#include "kvscope/scene/attention.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/decision_file.h"
#include "kvscope/storage/file_kind.h"
#include "kvscope/storage/spectrum_file.h"

namespace kvscope::gui {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  KVSCOPE_CHECK(file.good(), ErrorCode::io, "the file cannot be read", path,
                "check its name and permissions");
  return text.str();
}

/// Next-token probabilities of the decode steps, where the capture has them.
std::vector<StepChoices> read_choices(const CaptureReader& reader) {
  const std::string ids = "steps/logit_token";
  const std::vector<std::int64_t> extent = reader.shape(ids);
  const std::int64_t steps = reader.index().steps;
  if (extent.size() != 2 || extent[0] < steps || !reader.index().every_step() ||
      !reader.has("steps/logit_logprob")) {
    return {};
  }
  const auto ranks = static_cast<std::size_t>(extent[1]);
  std::vector<std::int32_t> token(static_cast<std::size_t>(steps) * ranks);
  std::vector<float> probability(token.size());
  reader.read(ids, {0, 0}, {steps, extent[1]}, std::span<std::int32_t>(token));
  reader.read("steps/logit_logprob", {0, 0}, {steps, extent[1]}, std::span<float>(probability));
  std::vector<StepChoices> choices;
  for (std::size_t first = 0; first < token.size(); first += ranks) {
    const auto at = static_cast<std::ptrdiff_t>(first);
    const auto end = static_cast<std::ptrdiff_t>(first + ranks);
    choices.push_back({{token.begin() + at, token.begin() + end},
                       {probability.begin() + at, probability.begin() + end}});
  }
  return choices;
}

Scene read_all(const std::vector<std::string>& paths, const FileChecker* checker) {
  if (checker != nullptr) {
    checker->check(paths);
  }
  std::optional<CaptureIndex> capture;
  TokenTable tokens;
  std::vector<Decision> decisions;
  std::optional<Spectrum> spectrum;
  std::string answers;
  std::vector<StepChoices> choices;
  for (const std::string& path : paths) {
    if (path.ends_with(".json")) {
      answers = path;
      continue;
    }
    switch (file_kind(path)) {
      case FileKind::capture: {
        KVSCOPE_CHECK(!capture, ErrorCode::usage, "two captures were given", path,
                      "open one capture with its decisions");
        const CaptureReader reader(path);
        capture = reader.index();
        tokens = reader.tokens();
        choices = read_choices(reader);
        break;
      }
      case FileKind::decision:
        decisions.push_back(read_decision(path));
        break;
      case FileKind::spectrum:
        spectrum = read_spectrum(path);
        break;
      default:
        throw Error(ErrorCode::unsupported, "the viewer does not show this kind of file", path,
                    "give a capture, decisions and a spectrum (.h5)");
    }
  }
  KVSCOPE_CHECK(capture || decisions.empty(), ErrorCode::usage,
                "decisions need the capture they were made on", paths.empty() ? "" : paths.front(),
                "name the X.capture.h5 too");
  KVSCOPE_CHECK(capture || spectrum, ErrorCode::usage, "there is nothing to show", "",
                "name a capture or a spectrum");
  Scene scene = make_scene(capture.value_or(CaptureIndex{}), tokens, std::move(decisions),
                           std::move(spectrum));
  scene.choices = std::move(choices);
  if (!answers.empty()) {
    scene.answers = read_answers(read_text(answers), scene.capture.capture_hash, answers);
  }
  return scene;
}

AttentionTile read_attention(const CaptureIndex& capture, int layer, int query_head,
                             const FileChecker* checker) {
  KVSCOPE_CHECK(!capture.path.empty(), ErrorCode::usage, "no capture is open");
  if (checker != nullptr) {
    checker->check({capture.path});
  }
  const CaptureReader reader(capture.path);
  require_all_heads(reader.index());
  const std::int64_t dim = capture.shape.head_dim;
  const auto rows = [&](const std::string& name, std::int64_t head) {
    const std::string dataset = layer_dataset(layer, name);
    const std::vector<std::int64_t> extent = reader.shape(dataset);
    KVSCOPE_CHECK(extent.size() == 3 && extent[0] > head && extent[2] == dim,
                  ErrorCode::missing_data, "the capture holds no " + name + " of this layer",
                  dataset, "capture with --profile qkv or full");
    std::vector<float> values(static_cast<std::size_t>(extent[1] * dim));
    reader.read(dataset, {head, 0, 0}, {1, extent[1], dim}, std::span<float>(values));
    return values;
  };
  AttentionRows input;
  input.layer = layer;
  input.query_head = query_head;
  input.queries = rows("queries", query_head);
  input.keys = rows("keys", capture.shape.kv_head_of(query_head));
  // The stored queries are the newest of the prompt.
  input.first_query =
      static_cast<int>(static_cast<std::int64_t>(input.keys.size() - input.queries.size()) / dim);
  return attention_of(input, capture.shape);
}

}  // namespace

std::future<AttentionTile> load_attention(const CaptureIndex& capture, int layer, int query_head,
                                          const FileChecker* checker) {
  return std::async(std::launch::async,
                    [=] { return read_attention(capture, layer, query_head, checker); });
}

std::future<Scene> load_scene(std::vector<std::string> paths, const FileChecker* checker) {
  return std::async(std::launch::async,
                    [paths = std::move(paths), checker] { return read_all(paths, checker); });
}

}  // namespace kvscope::gui
