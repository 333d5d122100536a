#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "build.h"
#include "kvscope/report/formats.h"
#include "kvscope/scene/inspector.h"

namespace kvscope::report {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

double mean(const double* first, std::size_t count) {
  return count == 0 ? nan : std::accumulate(first, first + count, 0.0) / static_cast<double>(count);
}

/// [layers, query_heads] averaged over each KV head's group: [layers, kv_heads]. Empty if not
/// stored.
std::vector<double> group_means(const std::vector<float>& plane, const Decision& decision) {
  const std::size_t group = static_cast<std::size_t>(decision.query_heads / decision.kv_heads);
  const std::size_t places = decision.layers.size() * static_cast<std::size_t>(decision.kv_heads);
  if (group == 0 || plane.size() != places * group) {
    return {};
  }
  std::vector<double> means(places);
  for (std::size_t place = 0; place < places; ++place) {
    double sum = 0;
    for (std::size_t member = 0; member < group; ++member) {
      sum += static_cast<double>(plane[place * group + member]);
    }
    means[place] = sum / static_cast<double>(group);
  }
  return means;
}

std::string origin_of(const Decision& decision) {
  return !decision.replayed      ? "live"
         : decision.replay_exact ? "replayed, exact"
                                 : "replayed, approximate";
}

void fill_cost(const Decision& decision, ReportMethod& method) {
  const DecisionMetrics& metrics = decision.metrics;
  method.head_error = group_means(metrics.output_error, decision);
  method.head_mass = group_means(metrics.retained_mass, decision);
  method.head_mass_no_sinks = group_means(metrics.retained_mass_no_sinks, decision);
  ReportCost& cost = method.cost;
  cost.present = !method.head_error.empty();
  cost.queries = metrics.queries;
  cost.query_count = metrics.query_count;
  cost.seen_by_method = metrics.seen_by_method;
  cost.output_error_mean = mean(method.head_error.data(), method.head_error.size());
  cost.retained_mass = mean(method.head_mass.data(), method.head_mass.size());
  cost.retained_mass_no_sinks =
      mean(method.head_mass_no_sinks.data(), method.head_mass_no_sinks.size());
  if (!cost.present) {
    return;
  }
  const auto worst = std::max_element(metrics.output_error.begin(), metrics.output_error.end());
  const auto at = static_cast<std::size_t>(worst - metrics.output_error.begin());
  cost.output_error_max = static_cast<double>(*worst);
  cost.worst_layer = decision.layers[at / static_cast<std::size_t>(decision.query_heads)].layer;
  cost.worst_query_head = static_cast<int>(at % static_cast<std::size_t>(decision.query_heads));
}

void fill_layers(const Decision& decision, ReportMethod& method) {
  const auto heads = static_cast<std::size_t>(decision.kv_heads);
  const auto layer_mean = [&](const std::vector<double>& plane, std::size_t row) {
    return plane.empty() ? nan : mean(plane.data() + row * heads, heads);
  };
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  std::int64_t most = 0;
  for (std::size_t row = 0; row < decision.layers.size(); ++row) {
    const LayerDecision& source = decision.layers[row];
    ReportLayer layer;
    layer.layer = source.layer;
    layer.fates = method.fates.layer[row];
    layer.granted = source.granted;
    for (int kv_head = 0; kv_head < source.kv_heads; ++kv_head) {
      layer.held.push_back(source.kept(kv_head));
    }
    layer.output_error = layer_mean(method.head_error, row);
    layer.retained_mass = layer_mean(method.head_mass, row);
    layer.retained_mass_no_sinks = layer_mean(method.head_mass_no_sinks, row);
    const std::int64_t granted =
        std::accumulate(layer.granted.begin(), layer.granted.end(), std::int64_t{0});
    least = std::min(least, granted);
    most = std::max(most, granted);
    method.layers.push_back(std::move(layer));
  }
  method.least_granted_layer = decision.layers.empty() ? 0 : static_cast<int>(least);
  method.most_granted_layer = static_cast<int>(most);
}

void fill_tokens(const Decision& decision, ReportMethod& method) {
  const auto tokens = static_cast<std::size_t>(decision.tokens);
  method.token_fates.assign(tokens, {});
  for (const LayerDecision& layer : decision.layers) {
    method.layer_letters += fate_letters(layer);
  }
  for (std::size_t cell = 0; cell < method.layer_letters.size(); ++cell) {
    method.token_fates[cell % tokens].add(method.layer_letters[cell]);
  }
  const std::vector<float>& lost = decision.metrics.lost_error;
  if (!lost.empty() && lost.size() == method.layer_letters.size()) {
    method.token_error.assign(tokens, 0.0);
    for (std::size_t cell = 0; cell < lost.size(); ++cell) {
      if (std::isfinite(lost[cell])) {
        method.token_error[cell % tokens] += static_cast<double>(lost[cell]);
      }
    }
  }
}

LostToken lost_token(const Decision& decision, const ReportMethod& method, const TokenTable& tokens,
                     int token) {
  const auto count = static_cast<std::size_t>(decision.tokens);
  LostToken lost;
  lost.token = token;
  lost.error = method.token_error[static_cast<std::size_t>(token)];
  const FateCounts& fates = method.token_fates[static_cast<std::size_t>(token)];
  lost.heads = static_cast<int>(fates.total());
  lost.lost_heads = static_cast<int>(fates.removed());
  int worst_row = -1;
  for (std::size_t cell = static_cast<std::size_t>(token); cell < method.layer_letters.size();
       cell += count) {
    const auto error = static_cast<double>(decision.metrics.lost_error[cell]);
    if (error > lost.worst_error) {
      const std::size_t place = cell / count;
      const auto heads = static_cast<std::size_t>(decision.kv_heads);
      lost.worst_error = error;
      lost.layer = decision.layers[place / heads].layer;
      lost.kv_head = static_cast<int>(place % heads);
      lost.fate = method.layer_letters[cell];
      worst_row = static_cast<int>(place / heads);
    }
  }
  if (worst_row >= 0) {
    lost.why = why_text(why_row(decision, worst_row, lost.kv_head, token, lost.fate));
  }
  const Surroundings text = surroundings(tokens, token, token + 1, 6);
  lost.before = text.before;
  lost.text = text.text;
  lost.after = text.after;
  return lost;
}

void fill_lost(const Decision& decision, const TokenTable& tokens, int wanted,
               ReportMethod& method) {
  if (method.token_error.empty()) {
    return;
  }
  std::vector<int> order(method.token_error.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return method.token_error[static_cast<std::size_t>(a)] >
           method.token_error[static_cast<std::size_t>(b)];
  });
  for (const int token : order) {
    if (static_cast<int>(method.lost.size()) >= wanted ||
        method.token_error[static_cast<std::size_t>(token)] <= 0) {
      break;
    }
    method.lost.push_back(lost_token(decision, method, tokens, token));
  }
}

}  // namespace

Surroundings surroundings(const TokenTable& tokens, int first, int last, int around) {
  Surroundings text;
  const int begin = std::max(0, first - around);
  const int end = std::min(tokens.size(), last + around);
  text.before = (begin > 0 ? "…" : "") + printable(tokens.text(begin, first));
  text.text = printable(tokens.text(first, last));
  text.after = printable(tokens.text(last, end)) + (end < tokens.size() ? "…" : "");
  return text;
}

ReportMethod count_method(const Decision& decision, const TokenTable& tokens, const SlotBytes& slot,
                          int lost_tokens) {
  ReportMethod method;
  method.method = decision.method;
  method.preset = decision.preset;
  method.keep = decision.keep;
  method.rounding = decision.rounding;
  method.origin = origin_of(decision);
  method.by_method = decision.by_method;
  method.replayed = decision.replayed;
  method.replay_exact = decision.replay_exact;
  method.tokens = decision.tokens;
  method.cut_tokens = decision.cut_tokens;
  method.cuts = static_cast<int>(decision.events.size());
  method.asked_slots = decision.budget_slots;
  method.granted_slots = decision.granted_slots();
  method.fates = count_fates(decision);
  method.held_slots = method.fates.total.holding();
  method.full_bytes = method.fates.total.total() * slot.whole;
  const CacheUse use = cache_use(decision, slot);
  method.held_bytes = use.last_bytes;
  method.first_bytes = use.first_slots * slot.whole;
  method.peak_bytes = use.peak_bytes;
  method.mean_bytes = std::llround(use.mean_bytes);
  const FateCounts& total = method.fates.total;
  method.gone_share = total.total() > 0 ? static_cast<double>(total.evicted + total.dropped) /
                                              static_cast<double>(total.total())
                                        : 0;
  method.classes = class_shares(tokens, decision);
  fill_cost(decision, method);
  fill_layers(decision, method);
  fill_tokens(decision, method);
  fill_lost(decision, tokens, lost_tokens, method);
  method.checks = check_decision(decision, &tokens);
  return method;
}

}  // namespace kvscope::report
