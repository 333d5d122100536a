#include <cmath>
#include <nlohmann/json.hpp>

#include "kvscope/report/formats.h"

namespace kvscope {
namespace {

using Json = nlohmann::ordered_json;

Json real(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json reals(const std::vector<double>& values) {
  Json array = Json::array();
  for (const double value : values) {
    array.push_back(real(value));
  }
  return array;
}

Json fates(const FateCounts& counts) {
  Json object;
  for (const char letter : fate_order) {
    object[std::string(1, letter)] = counts.of(letter);
  }
  return object;
}

Json overlap(const SetOverlap& sets) {
  return {{"both", sets.both},
          {"only_a", sets.only_a},
          {"only_b", sets.only_b},
          {"neither", sets.neither},
          {"jaccard", sets.jaccard()}};
}

Json capture(const Report& report) {
  const CaptureIndex& index = report.capture;
  return {{"path", index.path},
          {"model", index.model_name},
          {"model_hash", index.model_hash},
          {"capture_hash", index.capture_hash},
          {"profile", profile_name(index.profile)},
          {"layers", index.shape.layers},
          {"query_heads", index.shape.query_heads},
          {"kv_heads", index.shape.kv_heads},
          {"head_dim", index.shape.head_dim},
          {"tokens", report.tokens.size()},
          {"prompt_tokens", index.prompt_tokens},
          {"context_tokens", index.context_tokens},
          {"cache_dtype", index.cache_dtype},
          {"slot_bytes", report.slot_bytes}};
}

Json cost(const ReportCost& cost) {
  if (!cost.present) {
    return nullptr;
  }
  return {{"queries", cost.queries},
          {"query_count", cost.query_count},
          {"seen_by_method", cost.seen_by_method},
          {"output_error_mean", real(cost.output_error_mean)},
          {"output_error_max", real(cost.output_error_max)},
          {"worst_layer", cost.worst_layer},
          {"worst_query_head", cost.worst_query_head},
          {"retained_mass", real(cost.retained_mass)},
          {"retained_mass_no_sinks", real(cost.retained_mass_no_sinks)}};
}

Json layers(const ReportMethod& method) {
  Json array = Json::array();
  for (std::size_t row = 0; row < method.layers.size(); ++row) {
    const ReportLayer& layer = method.layers[row];
    Json heads = Json::array();
    for (int kv_head = 0; kv_head < method.fates.kv_heads; ++kv_head) {
      heads.push_back(fates(method.fates.at(static_cast<int>(row), kv_head)));
    }
    array.push_back({{"layer", layer.layer},
                     {"fates", fates(layer.fates)},
                     {"head_fates", heads},
                     {"granted", layer.granted},
                     {"held", layer.held},
                     {"output_error", real(layer.output_error)},
                     {"retained_mass", real(layer.retained_mass)},
                     {"retained_mass_no_sinks", real(layer.retained_mass_no_sinks)}});
  }
  return array;
}

Json lost(const ReportMethod& method) {
  Json array = Json::array();
  for (const LostToken& token : method.lost) {
    array.push_back({{"token", token.token},
                     {"text", token.text},
                     {"before", token.before},
                     {"after", token.after},
                     {"error", real(token.error)},
                     {"layer", token.layer},
                     {"kv_head", token.kv_head},
                     {"worst_error", real(token.worst_error)},
                     {"fate", std::string(1, token.fate)},
                     {"why", token.why},
                     {"lost_heads", token.lost_heads},
                     {"heads", token.heads}});
  }
  return array;
}

Json checks(const ReportMethod& method) {
  Json array = Json::array();
  for (const Finding& finding : method.checks) {
    array.push_back({{"id", finding.id},
                     {"severity", severity_name(finding.severity)},
                     {"text", finding.text},
                     {"count", finding.count},
                     {"layer", finding.layer},
                     {"kv_head", finding.kv_head},
                     {"token", finding.token}});
  }
  return array;
}

Json classes(const ReportMethod& method) {
  Json object = Json::object();
  for (std::size_t kind = 0; kind < method.classes.size(); ++kind) {
    const ClassShare& share = method.classes[kind];
    object[token_class_name(static_cast<TokenClass>(kind))] = {{"tokens", share.tokens},
                                                               {"slots", share.slots},
                                                               {"of_text", share.of_text},
                                                               {"of_slots", share.of_slots},
                                                               {"kept", share.kept}};
  }
  return object;
}

Json answer(const ReportMethod& method) {
  if (!method.answer) {
    return nullptr;
  }
  return {{"text", method.answer->text},
          {"changed", method.answer_changed ? Json(*method.answer_changed) : Json(nullptr)},
          {"first_divergence", method.answer->first_divergence},
          {"mean_divergence", real(method.answer->mean_divergence)},
          {"cache_bytes", method.answer->cache_bytes}};
}

Json method(const ReportMethod& method) {
  return {{"method", method.method},
          {"preset", method.preset},
          {"keep", method.keep},
          {"rounding", method.rounding},
          {"origin", method.origin},
          {"replayed", method.replayed},
          {"replay_exact", method.replay_exact},
          {"by_method", method.by_method},
          {"tokens", method.tokens},
          {"cut_tokens", method.cut_tokens},
          {"cuts", method.cuts},
          {"asked_slots", method.asked_slots},
          {"granted_slots", method.granted_slots},
          {"held_slots", method.held_slots},
          {"held_bytes", method.held_bytes},
          {"full_bytes", method.full_bytes},
          {"first_bytes", method.first_bytes},
          {"mean_bytes", method.mean_bytes},
          {"peak_bytes", method.peak_bytes},
          {"gone_share", method.gone_share},
          {"token_classes", classes(method)},
          {"least_granted_layer", method.least_granted_layer},
          {"most_granted_layer", method.most_granted_layer},
          {"kept_share", method.fates.total.kept_share()},
          {"dropped_share", method.fates.total.dropped_share()},
          {"fates", fates(method.fates.total)},
          {"cost", cost(method.cost)},
          {"head_output_error", reals(method.head_error)},
          {"layers", layers(method)},
          {"lost_tokens", lost(method)},
          {"checks", checks(method)},
          {"answer", answer(method)}};
}

Json pair(const Report& report, const ReportPair& pair) {
  const Agreement& agreed = pair.agreement;
  Json by_layer = Json::array();
  for (const SetOverlap& layer : agreed.layer) {
    by_layer.push_back(layer.jaccard());
  }
  const ReportMethod& first = report.methods[static_cast<std::size_t>(pair.a)];
  return {
      {"a", pair.a},
      {"b", pair.b},
      {"comparable", agreed.comparable()},
      {"remark", agreed.remark()},
      {"slot_difference", agreed.slot_difference},
      {"total", overlap(agreed.total)},
      {"layer_jaccard", by_layer},
      {"worst_layer", first.layers.empty()
                          ? -1
                          : first.layers[static_cast<std::size_t>(agreed.worst_layer_row)].layer},
      {"worst_kv_head", agreed.worst_kv_head}};
}

Json found_token(const FoundToken& token) {
  Json lost = Json::array();
  for (const FoundToken::Loss& loss : token.lost) {
    lost.push_back({{"layer", loss.layer}, {"kv_heads", loss.kv_heads}, {"fates", loss.letters}});
  }
  return {{"token", token.token},
          {"text", token.text},
          {"held", token.held},
          {"heads", token.heads},
          {"lost", lost}};
}

Json found(const FoundText& text) {
  Json by_method = Json::array();
  for (const FoundFate& fate : text.fates) {
    Json tokens = Json::array();
    for (const FoundToken& token : fate.tokens) {
      tokens.push_back(found_token(token));
    }
    by_method.push_back({{"method", fate.method},
                         {"verdict", fate.verdict},
                         {"whole_heads", fate.whole_heads},
                         {"none_heads", fate.none_heads},
                         {"heads", fate.heads},
                         {"tokens", tokens}});
  }
  return {{"find", text.needle},   {"found", text.found}, {"occurrences", text.occurrences},
          {"first", text.first},   {"last", text.last},   {"text", text.text},
          {"before", text.before}, {"after", text.after}, {"methods", by_method}};
}

}  // namespace

std::string to_json(const Report& report) {
  Json root;
  root["format"] = "kvscope.report";
  root["version"] = 1;
  root["capture"] = capture(report);
  root["memory"] = report.memory;
  root["methods"] = Json::array();
  for (const ReportMethod& entry : report.methods) {
    root["methods"].push_back(method(entry));
  }
  root["agreement"] = Json::array();
  for (const ReportPair& entry : report.pairs) {
    root["agreement"].push_back(pair(report, entry));
  }
  root["find"] = Json::array();
  for (const FoundText& entry : report.found) {
    root["find"].push_back(found(entry));
  }
  root["full_answer"] = report.full_answer ? Json(*report.full_answer) : Json(nullptr);
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace kvscope
