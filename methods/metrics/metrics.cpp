#include "kvscope/methods/metrics.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <charconv>

#include "kvscope/core/error.h"
#include "kvscope/core/log.h"
#include "metrics/judge.h"

namespace kvscope {
namespace {

const LayerDecision* find_layer(const Decision& decision, int layer) {
  for (const LayerDecision& candidate : decision.layers) {
    if (candidate.layer == layer) {
      return &candidate;
    }
  }
  return nullptr;
}

void append(std::vector<float>& all, const std::vector<float>& part) {
  all.insert(all.end(), part.begin(), part.end());
}

void check_match(const CaptureReader& capture, const Decision& decision) {
  const CaptureIndex& index = capture.index();
  KVSCOPE_CHECK(decision.capture_hash == index.capture_hash, ErrorCode::usage,
                fmt::format("decision '{}' belongs to another prompt or model", decision.method),
                index.path, "give the capture it was decided on");
  for (const int layer : index.layers) {
    const LayerDecision* found = find_layer(decision, layer);
    KVSCOPE_CHECK(
        found != nullptr && found->kv_heads == index.shape.kv_heads &&
            found->tokens <= index.prompt_tokens,
        ErrorCode::usage,
        fmt::format("decision '{}' does not cover layer {} of the capture", decision.method, layer),
        index.path, "decide again on this capture");
  }
}

}  // namespace

MetricsOptions MetricsOptions::parse(const std::string& text) {
  MetricsOptions options;
  if (text == "decode") {
    return options;
  }
  if (text == "none") {
    options.queries = Queries::none;
    return options;
  }
  options.queries = Queries::last;
  const std::string digits = text.starts_with("last:") ? text.substr(5) : "";
  const auto [end, failure] =
      std::from_chars(digits.data(), digits.data() + digits.size(), options.last);
  KVSCOPE_CHECK(failure == std::errc{} && end == digits.data() + digits.size() && options.last > 0,
                ErrorCode::usage, fmt::format("unknown population '{}'", text), "--metrics",
                "use decode, last:64 or none");
  return options;
}

void compute_metrics(const CaptureReader& capture, std::vector<Decision>& decisions,
                     const MetricsOptions& options) {
  const at::NoGradGuard no_gradients;
  if (decisions.empty() || options.queries == MetricsOptions::Queries::none) {
    return;
  }
  const detail::Population population =
      detail::choose_population(capture, decisions.front().cut_tokens, options);
  if (population.count == 0) {
    log_info(
        fmt::format("no metrics: the capture (profile {}) holds no queries, keys and values; "
                    "capture with --profile qkv",
                    profile_name(capture.index().profile)));
    return;
  }
  for (Decision& decision : decisions) {
    check_match(capture, decision);
    decision.metrics = {};
    decision.metrics.queries = population.name;
    decision.metrics.query_count = population.count;
    decision.metrics.seen_by_method = population.seen_by_method;
  }
  const std::vector<int>& layers = capture.index().layers;
  for (std::size_t row = 0; row < layers.size(); ++row) {
    const detail::LayerJudge judge(capture, static_cast<int>(row), population, options.sinks);
    for (Decision& decision : decisions) {
      const auto verdict = judge.judge(*find_layer(decision, layers[row]), decision.form);
      append(decision.metrics.output_error, verdict.output_error);
      append(decision.metrics.retained_mass, verdict.retained_mass);
      append(decision.metrics.retained_mass_no_sinks, verdict.retained_mass_no_sinks);
      append(decision.metrics.lost_error, verdict.lost_error);
    }
  }
}

}  // namespace kvscope
