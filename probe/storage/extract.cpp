#include "kvscope/storage/extract.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "dataset_copy.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/capture_state.h"

namespace kvscope {
namespace {

using h5::Handle;
using h5::Session;

/// Whether row i of the dataset depends on tokens up to i only, and on no decode step.
bool is_causal(const std::string& path) {
  constexpr std::string_view rows[] = {"reduce/lse",
                                       "reduce/entropy",
                                       "reduce/key_norm",
                                       "reduce/value_norm",
                                       "reduce/value_norm_l1",
                                       "reduce/projected_value_norm",
                                       "reduce/projected_value_norm_l1",
                                       "reduce/top_key",
                                       "reduce/top_probability"};
  // Hook points are not: their rows are chosen tokens.
  const std::string name = path.substr(path.rfind('/') + 1);
  constexpr std::string_view tensors[] = {"keys",    "keys_pre_rope", "values",
                                          "queries", "output_factor", "attention"};
  return (path.starts_with("layers/") &&
          std::count(std::begin(tensors), std::end(tensors), name) > 0) ||
         std::count(std::begin(rows), std::end(rows), path) > 0;
}

/// Whether a profile stores a dataset that other profiles lack; what was asked for besides the
/// profile, every one does.
bool in_profile(const std::string& path, Profile profile) {
  const bool tensors = profile == Profile::qkv || profile == Profile::full;
  const std::string name = path.substr(path.rfind('/') + 1);
  if (path.starts_with("layers/")) {
    constexpr std::string_view stored[] = {"keys", "keys_pre_rope", "values", "queries",
                                           "output_factor"};
    return tensors || std::count(std::begin(stored), std::end(stored), name) == 0;
  }
  if (path.starts_with("steps/")) {
    return tensors || (name != "queries" && name != "keys" && name != "values");
  }
  if (path == "reduce/value_norm_l1" || path == "reduce/projected_value_norm_l1") {
    return tensors;
  }
  constexpr std::string_view columns[] = {"reduce/attention_sum", "reduce/attention_max",
                                          "reduce/attention_sum_squares", "reduce/entropy"};
  const std::string plane = path.starts_with("reduce/group_") ? "reduce/" + name : path;
  return profile != Profile::window ||
         std::count(std::begin(columns), std::end(columns), plane) == 0;
}

/// The cut, worked out for one file.
class Extraction {
 public:
  Extraction(const CaptureReader& reader, const ExtractRequest& request)
      : old_(reader.index()), request_(request), index_(reader.index()) {
    choose_layers();
    choose_profile();
    choose_tokens();
    index_.path.clear();
    index_.notes = note();
  }

  const CaptureIndex& index() const { return index_; }
  int steps() const { return index_.steps; }
  bool shorter() const { return index_.prompt_tokens < old_.prompt_tokens; }
  void set_hash(const std::string& hash) { index_.capture_hash = hash; }

  bool keeps(const std::string& path) const {
    const bool other_tokens = path.starts_with("snapshots/") && index_.tokens != old_.tokens;
    if (path.starts_with("decisions/") || other_tokens) {
      return false;
    }
    return keeps_layer(path) && in_profile(path, index_.profile) &&
           (!shorter() || is_causal(path)) &&
           !(path.ends_with("/queries") && path.starts_with("layers/") &&
             index_.first_query >= index_.prompt_tokens);
  }
  bool keeps_layer(const std::string& path) const {
    return !path.starts_with("layers/") ||
           std::any_of(index_.layers.begin(), index_.layers.end(),
                       [&](int layer) { return path.starts_with(layer_dataset(layer, "")); });
  }

  /// What is copied of a dataset; gives `spec` the shape it has then.
  h5::Part part_of(DatasetSpec& spec) const {
    h5::Part part = h5::whole_of(spec.shape);
    std::int64_t stored_from = 0;
    for (auto& [name, number] : spec.numbers) {
      if (name == "first_query") {
        stored_from = number;
        number = index_.first_query;
      }
    }
    for (std::size_t axis = 0; axis < spec.shape.size() && axis < spec.labels.size(); ++axis) {
      const std::string& label = spec.labels[axis];
      if (label == "layer") {
        part.picked_axis = static_cast<int>(axis);
        part.picked = rows_;
        part.count[axis] = static_cast<std::int64_t>(rows_.size());
      } else if (label == "step") {
        part.count[axis] = index_.steps;
      } else if (label == "query" && spec.numbers.size() == 1) {
        part.first[axis] = std::max<std::int64_t>(0, index_.first_query - stored_from);
        part.count[axis] = index_.prompt_tokens - index_.first_query;
      } else if (label == "token" || label == "query") {
        part.count[axis] =
            spec.shape[axis] == old_.prompt_tokens ? index_.prompt_tokens : index_.tokens;
      }
    }
    if (spec.path.ends_with("/queries") && part.count[1] < spec.shape[1]) {
      spec.queries =
          fmt::format("prompt queries {} to {}", index_.first_query, index_.prompt_tokens - 1);
    }
    spec.shape = part.count;
    return part;
  }

 private:
  void choose_layers() {
    if (!request_.layers.empty()) {
      index_.layers = request_.layers;
    }
    for (const int layer : index_.layers) {
      const auto found = std::find(old_.layers.begin(), old_.layers.end(), layer);
      KVSCOPE_CHECK(found != old_.layers.end(), ErrorCode::usage,
                    fmt::format("layer {} is not in the capture", layer), old_.path,
                    fmt::format("it has layers {}", fmt::join(old_.layers, ", ")));
      rows_.push_back(found - old_.layers.begin());
    }
  }

  void choose_profile() {
    const Profile profile = request_.profile.value_or(old_.profile);
    KVSCOPE_CHECK(profile <= old_.profile, ErrorCode::usage,
                  fmt::format("profile {} stores more than the capture's, {}",
                              profile_name(profile), profile_name(old_.profile)),
                  old_.path, "name a smaller one, or capture again");
    KVSCOPE_CHECK(request_.stored_queries >= 1, ErrorCode::usage, "no queries to store",
                  "--queries", "store one or more, or choose --profile scores");
    index_.profile = profile;
    if (profile == Profile::qkv && old_.profile == Profile::full) {
      index_.first_query = std::max(old_.first_query, old_.prompt_tokens - request_.stored_queries);
    } else if (profile < Profile::qkv) {
      index_.first_query = old_.prompt_tokens;
    }
  }

  void choose_tokens() {
    const int most = old_.prompt_tokens;
    KVSCOPE_CHECK(request_.prompt_tokens >= 0 && request_.prompt_tokens <= most, ErrorCode::usage,
                  fmt::format("{} tokens of a prompt of {}", request_.prompt_tokens, most),
                  "--tokens", fmt::format("choose 1 to {}", most));
    KVSCOPE_CHECK(request_.steps <= old_.steps, ErrorCode::usage,
                  fmt::format("{} decode steps of {}", request_.steps, old_.steps), "--steps",
                  fmt::format("choose 0 to {}", old_.steps));
    index_.prompt_tokens = request_.prompt_tokens > 0 ? request_.prompt_tokens : most;
    index_.context_tokens = std::min(old_.context_tokens, index_.prompt_tokens);
    index_.first_query = std::min(index_.first_query, index_.prompt_tokens);
    index_.steps = request_.steps >= 0 ? request_.steps : old_.steps;
    if (shorter()) {
      KVSCOPE_CHECK(request_.steps <= 0, ErrorCode::usage,
                    "decode steps do not follow a shorter prompt", "--steps",
                    "leave out --tokens, or --steps");
      index_.steps = 0;
      index_.windows.clear();
      index_.hook_tokens.clear();
    }
    index_.step_numbers.resize(static_cast<std::size_t>(index_.steps));
    index_.tokens = index_.prompt_tokens + (index_.steps > 0 ? index_.step_numbers.back() : 0);
  }

  std::string note() const {
    std::vector<std::string> cuts;
    if (index_.layers.size() < old_.layers.size()) {
      cuts.push_back(fmt::format("{} of {} layers", index_.layers.size(), old_.layers.size()));
    }
    if (shorter()) {
      cuts.push_back(fmt::format("the first {} of {} prompt tokens", index_.prompt_tokens,
                                 old_.prompt_tokens));
    }
    if (index_.steps < old_.steps) {
      cuts.push_back(fmt::format("the first {} of {} decode steps", index_.steps, old_.steps));
    }
    if (index_.profile != old_.profile) {
      cuts.push_back(fmt::format("profile {} of {}", profile_name(index_.profile),
                                 profile_name(old_.profile)));
    }
    KVSCOPE_CHECK(!cuts.empty(), ErrorCode::usage, "the request keeps everything", old_.path,
                  "name fewer --layers, --tokens or --steps, or a smaller --profile");
    return fmt::format("{}{}extracted: {}", old_.notes, old_.notes.empty() ? "" : "; ",
                       fmt::join(cuts, ", "));
  }

  const CaptureIndex& old_;
  const ExtractRequest& request_;
  CaptureIndex index_;
  std::vector<std::int64_t> rows_;  ///< of the chosen layers among the captured ones
};

}  // namespace

Extracted extract_capture(const std::string& path, const std::string& output,
                          const ExtractRequest& request, bool force) {
  const Session session;
  const CaptureReader reader(path);
  KVSCOPE_CHECK(reader.index().state == static_cast<int>(CaptureState::done), ErrorCode::usage,
                "the capture is not complete", path,
                being_written(path) ? "wait for the end of its run"
                                    : "copy what it holds with `kvscope recover` first");
  Extraction cut(reader, request);
  const TokenTable prompt = h5::prompt_of(reader.tokens(), cut.index().prompt_tokens);
  if (cut.shorter()) {
    cut.set_hash(sequence_hash(cut.index().model_hash, prompt));
  }
  Extracted result;
  const Handle file = h5::open_file(path);
  std::vector<DatasetSpec> specs;
  std::vector<h5::Part> parts;
  const std::string first_layer = layer_dataset(cut.index().layers.front(), "");
  for (const std::string& name : reader.datasets()) {
    if (h5::made_by_writer(name)) {
      continue;
    }
    if (cut.keeps(name)) {
      specs.push_back(h5::spec_of(file, name));
      parts.push_back(cut.part_of(specs.back()));
    } else if (!name.starts_with("layers/") || name.starts_with(first_layer)) {
      result.left_out.push_back(name);
    }
  }
  CaptureWriter writer(output, cut.index(), prompt, specs, {force, false, false});
  for (std::size_t index = 0; index < specs.size(); ++index) {
    h5::copy_part(file, specs[index].path, specs[index].type, parts[index], writer);
    for (const char* attribute : {"self_check_failed", "nonfinite"}) {
      const std::string text = reader.attribute(specs[index].path, attribute);
      if (!text.empty()) {
        writer.set_attribute(specs[index].path, attribute, text);
      }
    }
  }
  for (const DroppedRange& range : reader.dropped()) {
    if (cut.keeps(range.dataset) && range.first_step <= cut.steps()) {
      writer.add_dropped(range);
    }
  }
  const TokenTable& tokens = reader.tokens();
  for (int token = prompt.size(); token < cut.index().tokens; ++token) {
    const auto at = static_cast<std::size_t>(token);
    writer.append_token(tokens.id[at], tokens.position[at], tokens.text(token));
  }
  for (int row = 0; row < static_cast<int>(cut.index().layers.size()); ++row) {
    writer.layer_done(row);
  }
  writer.finish(cut.steps());
  result.index = cut.index();
  return result;
}

}  // namespace kvscope
