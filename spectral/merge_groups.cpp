#include "merge_groups.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace kvscope::spectral {
namespace {

using Weights = std::map<int, double>;

/// What the slots of one head hold while events go by.
class Slots {
 public:
  const Weights& content(int token) {
    const auto [found, made] = content_.try_emplace(token);
    if (made) {
      found->second[token] = 1;
    }
    return found->second;
  }
  std::set<int>& members(int token) {
    const auto [found, made] = members_.try_emplace(token);
    if (made) {
      found->second.insert(token);
    }
    return found->second;
  }
  void hold(int token, Weights weights, int key_row) {
    content_[token] = std::move(weights);
    key_row_[token] = key_row;
  }
  /// Moves what each source stands for to its target, all at once.
  void move(const std::map<int, int>& targets) {
    std::map<int, std::set<int>> leaving;
    for (const auto& [source, target] : targets) {
      leaving[source].swap(members(source));
    }
    for (const auto& [source, target] : targets) {
      members(target).insert(leaving[source].begin(), leaving[source].end());
    }
  }
  std::vector<MergeGroup> groups() {
    std::vector<MergeGroup> found;
    for (const auto& [token, all] : members_) {
      if (all.size() > 1) {
        const Weights& held = content(token);
        found.push_back({token,
                         {all.begin(), all.end()},
                         {held.begin(), held.end()},
                         key_row_.contains(token) ? key_row_[token] : -1});
      }
    }
    return found;
  }

 private:
  std::map<int, Weights> content_;
  std::map<int, std::set<int>> members_;
  std::map<int, int> key_row_;
};

}  // namespace

std::vector<MergeGroup> merge_groups(const LayerDecision& layer, int kv_head, int tokens,
                                     float MergeEdge::*weight, CacheForm::Values form) {
  std::vector<const MergeEdge*> edges;
  for (const MergeEdge& edge : layer.edges) {
    if (edge.kv_head == kv_head && edge.source < tokens && edge.target < tokens) {
      edges.push_back(&edge);
    }
  }
  std::stable_sort(edges.begin(), edges.end(),
                   [](const MergeEdge* a, const MergeEdge* b) { return a->event < b->event; });
  Slots slots;
  for (std::size_t first = 0; first < edges.size();) {
    std::size_t last = first;
    std::map<int, Weights> incoming;             // by target
    std::map<int, double> left;                  // by target: share of its own row
    std::map<int, int> rows;                     // finished key of the target
    std::map<int, std::pair<double, int>> home;  // by source: largest share, its target
    for (; last < edges.size() && edges[last]->event == edges[first]->event; ++last) {
      const MergeEdge& edge = *edges[last];
      const double share = edge.*weight;
      for (const auto& [token, part] : slots.content(edge.source)) {
        incoming[edge.target][token] += share * part;
      }
      const double whole = left.try_emplace(edge.target, 1.0).first->second;
      const bool own = edge.source == edge.target;
      // An edge from itself says it all: no rest is added, however many others come.
      left[edge.target] = own || std::isnan(whole) ? std::numeric_limits<double>::quiet_NaN()
                          : form == CacheForm::Values::sum ? 1.0
                                                           : whole - share;
      auto& row = rows.try_emplace(edge.target, -1).first->second;
      row = std::max(row, edge.key_row);
      auto& best = home.try_emplace(edge.source, -1.0, edge.target).first->second;
      best = share > best.first ? std::pair(share, edge.target) : best;
    }
    // All of an event reads what slots held before it.
    for (auto& [target, weights] : incoming) {
      const double rest = std::isnan(left[target]) ? 0 : left[target];
      for (const auto& [token, part] : slots.content(target)) {
        weights[token] += rest * part;
      }
      double sum = 0;
      for (const auto& [token, part] : weights) {
        sum += part;
      }
      for (auto& [token, part] : weights) {
        part = sum != 0 ? part / sum : part;
      }
      slots.hold(target, weights, rows[target]);
    }
    std::map<int, int> targets;
    for (const auto& [source, best] : home) {
      targets[source] = best.second;
    }
    slots.move(targets);
    first = last;
  }
  return slots.groups();
}

}  // namespace kvscope::spectral
