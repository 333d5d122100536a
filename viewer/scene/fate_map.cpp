#include "kvscope/scene/fate_map.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kvscope/scene/moment.h"
#include "kvscope/scene/token_strip.h"

namespace kvscope {
namespace {

constexpr float none = std::numeric_limits<float>::quiet_NaN();
constexpr int ranked_against = 4096;

/// A table [layers, tokens] filled layer by layer; `row_of` writes the covered and seen tokens.
template <typename FillRow>
std::vector<float> table_of(const Scene& scene, const SceneDecision& entry, const State& state,
                            FillRow fill_row) {
  const auto tokens = static_cast<std::size_t>(scene.token_count());
  std::vector<float> table(static_cast<std::size_t>(scene.layers()) * tokens, none);
  const int seen = std::min(tokens_seen(entry.decision, state), scene.token_count());
  for (int row = 0; row < scene.layers(); ++row) {
    fill_row(entry.decision.layers[static_cast<std::size_t>(row)], row,
             std::span(table).subspan(static_cast<std::size_t>(row) * tokens,
                                      static_cast<std::size_t>(seen)));
  }
  return table;
}

/// The scores that ranks are taken against, ascending.
std::vector<float> sorted_sample(std::span<const float> scores) {
  std::vector<float> sample;
  const std::size_t stride = std::max<std::size_t>(1, scores.size() / ranked_against);
  for (std::size_t at = 0; at < scores.size(); at += stride) {
    if (std::isfinite(scores[at])) {
      sample.push_back(scores[at]);
    }
  }
  std::sort(sample.begin(), sample.end());
  return sample;
}

/// Adds each token's rank in one head to `sums`, and 1 to `counts` where there is one.
void add_ranks(std::span<const float> scores, std::span<float> sums, std::vector<float>& counts) {
  const std::vector<float> sample = sorted_sample(scores);
  for (std::size_t token = 0; token < sums.size() && !sample.empty(); ++token) {
    if (!std::isfinite(scores[token])) {
      continue;
    }
    const auto below = std::upper_bound(sample.begin(), sample.end(), scores[token]);
    sums[token] += static_cast<float>(below - sample.begin()) / static_cast<float>(sample.size());
    counts[token] += 1;
  }
}

}  // namespace

std::vector<float> kept_share(const Scene& scene, const SceneDecision& entry, const State& state) {
  const auto applied = static_cast<std::uint32_t>(cuts_applied(entry.decision, state));
  const std::vector<int> heads = selected_heads(scene, state);
  const bool counted = state.seen < 0 && state.kv_heads.empty();
  return table_of(
      scene, entry, state, [&](const LayerDecision& layer, int row, std::span<float> share) {
        const auto base = static_cast<std::size_t>(row) * static_cast<std::size_t>(layer.tokens);
        if (counted) {
          const float scale = 1.0f / static_cast<float>(layer.kv_heads);
          for (std::size_t token = 0; token < share.size(); ++token) {
            share[token] = static_cast<float>(entry.heads_by_layer[base + token]) * scale;
          }
          return;
        }
        std::fill(share.begin(), share.end(), 0.0f);
        const float part = 1.0f / static_cast<float>(heads.size());
        for (const int head : heads) {
          const std::uint32_t* removed = layer.removed_at.data() + layer.cell(head, 0);
          for (std::size_t token = 0; token < share.size(); ++token) {
            share[token] += removed[token] >= applied ? part : 0.0f;
          }
        }
      });
}

std::vector<float> share_difference(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> difference(a.size());
  std::transform(a.begin(), a.end(), b.begin(), difference.begin(), std::minus<>());
  return difference;
}

std::vector<float> removal_time(const Scene& scene, const SceneDecision& entry,
                                const State& state) {
  const std::vector<DecisionEvent>& events = entry.decision.events;
  const std::vector<int> heads = selected_heads(scene, state);
  const auto whole = static_cast<float>(std::max(1, entry.decision.tokens));
  return table_of(scene, entry, state, [&](const LayerDecision& layer, int, std::span<float> row) {
    for (std::size_t token = 0; token < row.size(); ++token) {
      float sum = 0;
      for (const int head : heads) {
        const std::uint32_t event = layer.removed_at[layer.cell(head, static_cast<int>(token))];
        sum += event < events.size() ? static_cast<float>(events[event].tokens_seen) / whole : 1.0f;
      }
      row[token] = std::min(1.0f, sum / static_cast<float>(heads.size()));
    }
  });
}

std::vector<float> score_rank(const Scene& scene, const SceneDecision& entry, const State& state) {
  const bool stored = std::any_of(entry.decision.layers.begin(), entry.decision.layers.end(),
                                  [](const LayerDecision& layer) { return !layer.scores.empty(); });
  if (!stored) {
    return {};
  }
  const std::vector<int> heads = selected_heads(scene, state);
  return table_of(scene, entry, state, [&](const LayerDecision& layer, int, std::span<float> row) {
    if (layer.scores.empty()) {
      return;
    }
    std::fill(row.begin(), row.end(), 0.0f);
    std::vector<float> counts(row.size(), 0.0f);
    for (const int head : heads) {
      add_ranks(std::span(layer.scores)
                    .subspan(layer.cell(head, 0), static_cast<std::size_t>(layer.tokens)),
                row, counts);
    }
    for (std::size_t token = 0; token < row.size(); ++token) {
      row[token] = counts[token] > 0 ? row[token] / counts[token] : none;
    }
  });
}

std::string fate_rows(const Scene& scene, const SceneDecision& entry, const State& state) {
  const std::vector<int> heads = selected_heads(scene, state);
  const auto tokens = static_cast<std::size_t>(scene.token_count());
  std::string rows;
  rows.reserve(static_cast<std::size_t>(scene.layers()) * heads.size() * tokens);
  for (int row = 0; row < scene.layers(); ++row) {
    const LayerDecision& layer = entry.decision.layers[static_cast<std::size_t>(row)];
    const std::string letters = letters_at(entry, row, state);
    const std::size_t covered = std::min(tokens, static_cast<std::size_t>(layer.tokens));
    for (const int head : heads) {
      rows.append(letters, layer.cell(head, 0), covered);
      rows.append(tokens - covered, 'N');
    }
  }
  return rows;
}

}  // namespace kvscope
