#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "compare_values.h"
#include "kvscope/report/compare.h"

namespace kvscope {
namespace {

using report::ValueDifference;

class DecisionComparison {
 public:
  DecisionComparison(const Decision& a, const Decision& b, Tolerance tolerance)
      : a_(a), b_(b), tolerance_(tolerance) {}

  Comparison run() {
    facts();
    if (a_.kv_heads == b_.kv_heads && a_.tokens == b_.tokens) {
      layers();
      metrics();
    }
    return std::move(result_);
  }

 private:
  template <typename T>
  void fact(const char* name, const T& left, const T& right) {
    if (left != right) {
      result_.differences.push_back({name, fmt::format("{} | {}", left, right)});
    }
  }

  void facts() {
    fact("method", a_.method, b_.method);
    fact("keep", a_.keep, b_.keep);
    fact("budget slots", a_.budget_slots, b_.budget_slots);
    fact("granted slots", a_.granted_slots(), b_.granted_slots());
    fact("kept slots", a_.kept_slots(), b_.kept_slots());
    fact("capture hash", a_.capture_hash, b_.capture_hash);
    fact("model", a_.model_name, b_.model_name);
    fact("replayed", a_.replayed, b_.replayed);
    fact("tokens", a_.tokens, b_.tokens);
    fact("tokens the last cut saw", a_.cut_tokens, b_.cut_tokens);
    fact("KV heads", a_.kv_heads, b_.kv_heads);
    fact("layers", a_.layers.size(), b_.layers.size());
    fact("events", a_.events.size(), b_.events.size());
  }

  void layers() {
    for (const LayerDecision& left : a_.layers) {
      const auto right =
          std::find_if(b_.layers.begin(), b_.layers.end(),
                       [&](const LayerDecision& other) { return other.layer == left.layer; });
      if (right != b_.layers.end()) {
        fates(left, *right);
        slots(left, *right);
        edges(left, *right);
        scores(left, *right);
      }
    }
  }

  void fates(const LayerDecision& a, const LayerDecision& b) {
    ++result_.compared;
    const std::string left = fate_letters(a);
    const std::string right = fate_letters(b);
    Difference fate{fmt::format("fates, layer {}", a.layer), "", a.layer};
    Difference other{fmt::format("reasons and moments, layer {}", a.layer), "", a.layer};
    fate.total = other.total = static_cast<std::int64_t>(left.size());
    for (std::size_t cell = 0; cell < left.size(); ++cell) {
      const std::size_t head = cell / static_cast<std::size_t>(a.tokens);
      const std::size_t token = cell % static_cast<std::size_t>(a.tokens);
      if (left[cell] != right[cell] && fate.count++ == 0) {
        fate.first =
            fmt::format("kv_head {}, token {}: {} | {}", head, token, left[cell], right[cell]);
      }
      const bool same =
          a.reason[cell] == b.reason[cell] && a.removed_at[cell] == b.removed_at[cell];
      if (left[cell] == right[cell] && !same && other.count++ == 0) {
        other.first = fmt::format("kv_head {}, token {}: {} at {} | {} at {}", head, token,
                                  reason_name(a.reason[cell]), moment(a.removed_at[cell]),
                                  reason_name(b.reason[cell]), moment(b.removed_at[cell]));
      }
    }
    for (const Difference& found : {fate, other}) {
      if (found.count > 0) {
        result_.differences.push_back(found);
      }
    }
  }

  static std::string moment(std::uint32_t removed_at) {
    return removed_at == alive ? "the end" : fmt::format("event {}", removed_at);
  }

  void slots(const LayerDecision& a, const LayerDecision& b) {
    ++result_.compared;
    Difference found{fmt::format("granted slots, layer {}", a.layer), "", a.layer, 0, a.kv_heads};
    for (std::size_t head = 0; head < a.granted.size() && head < b.granted.size(); ++head) {
      if (a.granted[head] != b.granted[head]) {
        found.first = found.count++ == 0 ? fmt::format("kv_head {}: {} | {}", head, a.granted[head],
                                                       b.granted[head])
                                         : found.first;
        found.largest = std::max(found.largest,
                                 std::abs(static_cast<double>(a.granted[head] - b.granted[head])));
      }
    }
    if (found.count > 0) {
      result_.differences.push_back(found);
    }
  }

  /// Edges are sorted; the first place where the lists part is where they differ first.
  void edges(const LayerDecision& a, const LayerDecision& b) {
    ++result_.compared;
    const auto key = [](const MergeEdge& edge) {
      return std::tuple(edge.event, edge.kv_head, edge.target, edge.source);
    };
    const auto name = [](const MergeEdge& edge) {
      return fmt::format("event {}, kv_head {}: {} into {}", edge.event, edge.kv_head, edge.source,
                         edge.target);
    };
    Difference found{fmt::format("merge edges, layer {}", a.layer), "", a.layer};
    found.total = static_cast<std::int64_t>(std::max(a.edges.size(), b.edges.size()));
    std::size_t left = 0;
    std::size_t right = 0;
    const auto note = [&](const std::string& text) {
      found.first = found.count++ == 0 ? text : found.first;
    };
    while (left < a.edges.size() || right < b.edges.size()) {
      const bool end_a = left == a.edges.size();
      const bool end_b = right == b.edges.size();
      if (end_b || (!end_a && key(a.edges[left]) < key(b.edges[right]))) {
        note(name(a.edges[left++]) + " only in A");
      } else if (end_a || key(b.edges[right]) < key(a.edges[left])) {
        note(name(b.edges[right++]) + " only in B");
      } else {
        weigh(a.edges[left++], b.edges[right++], name, found);
      }
    }
    if (found.count > 0) {
      result_.differences.push_back(found);
    }
  }

  template <typename Name>
  void weigh(const MergeEdge& a, const MergeEdge& b, const Name& name, Difference& found) const {
    const float left[] = {a.key_weight, a.value_weight, a.count};
    const float right[] = {b.key_weight, b.value_weight, b.count};
    ValueDifference apart(tolerance_);
    apart.add(left, right, [&](std::size_t part) {
      constexpr const char* parts[] = {"key weight", "value weight", "count"};
      return fmt::format("{}, {} {:g} | {:g}", name(a), parts[part], left[part], right[part]);
    });
    if (apart.any()) {
      const Difference difference = apart.difference("", a.kv_head);
      found.first = found.count++ == 0 ? difference.first : found.first;
      found.largest = std::max(found.largest, difference.largest);
    }
  }

  void scores(const LayerDecision& a, const LayerDecision& b) {
    if (a.scores.empty() || b.scores.empty()) {
      return;
    }
    ++result_.compared;
    ValueDifference found(tolerance_);
    found.add(a.scores, b.scores, [&](std::size_t cell) {
      return fmt::format("kv_head {}, token {}: {:g} | {:g}",
                         cell / static_cast<std::size_t>(a.tokens),
                         cell % static_cast<std::size_t>(a.tokens), a.scores[cell], b.scores[cell]);
    });
    if (found.any()) {
      result_.differences.push_back(
          found.difference(fmt::format("scores, layer {}", a.layer), a.layer));
    }
  }

  void metrics() {
    const auto compare = [&](const char* name, const std::vector<float>& a,
                             const std::vector<float>& b, int heads) {
      if (a.empty() || a.size() != b.size()) {
        return;
      }
      ++result_.compared;
      ValueDifference found(tolerance_);
      found.add(a, b, [&](std::size_t cell) {
        const auto row = static_cast<std::size_t>(heads);
        return fmt::format("layer {}, query_head {}: {:g} | {:g}", a_.layers[cell / row].layer,
                           cell % row, a[cell], b[cell]);
      });
      if (found.any()) {
        result_.differences.push_back(found.difference(name, -1));
      }
    };
    fact("metrics of", a_.metrics.queries, b_.metrics.queries);
    if (a_.layers.size() == b_.layers.size() && a_.query_heads > 0) {
      compare("output error", a_.metrics.output_error, b_.metrics.output_error, a_.query_heads);
      compare("retained mass", a_.metrics.retained_mass, b_.metrics.retained_mass, a_.query_heads);
    }
  }

  const Decision& a_;
  const Decision& b_;
  Tolerance tolerance_;
  Comparison result_;
};

}  // namespace

Comparison compare_decisions(const Decision& a, const Decision& b, Tolerance tolerance) {
  return DecisionComparison(a, b, tolerance).run();
}

}  // namespace kvscope
