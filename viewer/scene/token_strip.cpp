#include "kvscope/scene/token_strip.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <numeric>

#include "kvscope/scene/moment.h"

namespace kvscope {
namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

bool holds(char letter) {
  return std::string_view("KPTS").find(letter) != std::string_view::npos;
}

/// Fates of one decision in the state's layer and heads.
struct LayerView {
  std::string letters;
  const LayerDecision* layer = nullptr;
  std::vector<int> heads;

  char at(int head, int token) const { return letters[layer->cell(head, token)]; }

  /// The common letter of the heads; in lower case a lost one where they differ.
  char joint(int token) const {
    const char first = at(heads.front(), token);
    char worst = first;
    bool same = true;
    for (const int head : heads) {
      const char letter = at(head, token);
      same = same && letter == first;
      worst = holds(letter) ? worst : letter;
    }
    return same ? first : static_cast<char>(std::tolower(static_cast<unsigned char>(worst)));
  }

  double share(int token) const {
    const auto held =
        std::count_if(heads.begin(), heads.end(), [&](int head) { return holds(at(head, token)); });
    return static_cast<double>(held) / static_cast<double>(heads.size());
  }
};

LayerView view_of(const Scene& scene, const State& state, int decision) {
  const SceneDecision& entry = scene.decisions[static_cast<std::size_t>(decision)];
  return {letters_at(entry, state.layer, state),
          &entry.decision.layers[static_cast<std::size_t>(state.layer)],
          selected_heads(scene, state)};
}

/// Mean over the heads of the share of the head's tokens that score lower: [last - first].
std::vector<double> score_values(const LayerView& view, int first, int last) {
  std::vector<double> sums(static_cast<std::size_t>(last - first), 0);
  std::vector<int> counts(sums.size(), 0);
  for (const int head : view.heads) {
    if (view.layer->scores.empty()) {
      break;
    }
    const float* scores = view.layer->scores.data() + view.layer->cell(head, 0);
    std::vector<float> sorted;
    std::copy_if(scores, scores + view.layer->tokens, std::back_inserter(sorted),
                 [](float score) { return std::isfinite(score); });
    std::sort(sorted.begin(), sorted.end());
    for (int token = first; token < std::min(last, view.layer->tokens); ++token) {
      if (std::isfinite(scores[token])) {
        const auto at = static_cast<std::size_t>(token - first);
        const auto below = std::lower_bound(sorted.begin(), sorted.end(), scores[token]);
        sums[at] += static_cast<double>(below - sorted.begin()) /
                    std::max(1.0, static_cast<double>(sorted.size()) - 1);
        ++counts[at];
      }
    }
  }
  for (std::size_t at = 0; at < sums.size(); ++at) {
    sums[at] = counts[at] > 0 ? sums[at] / counts[at] : nan_value;
  }
  return sums;
}

/// Error of losing each token alone in the layer's selected heads, against the layer's largest.
std::vector<double> cost_values(const Scene& scene, const State& state, const LayerView& view,
                                int first, int last) {
  std::vector<double> values(static_cast<std::size_t>(last - first), nan_value);
  const std::vector<float>& lost =
      scene.decisions[static_cast<std::size_t>(state.a)].decision.metrics.lost_error;
  const std::size_t cells = view.layer->fate.size();
  const std::size_t base = static_cast<std::size_t>(state.layer) * cells;
  if (lost.size() < base + cells) {
    return values;
  }
  float most = 0;
  for (std::size_t cell = 0; cell < cells; ++cell) {
    most = std::max(most, lost[base + cell]);
  }
  for (int token = first; token < std::min(last, view.layer->tokens) && most > 0; ++token) {
    double worst = 0;
    for (const int head : view.heads) {
      worst = std::max(worst, static_cast<double>(lost[base + view.layer->cell(head, token)]));
    }
    values[static_cast<std::size_t>(token - first)] = worst / static_cast<double>(most);
  }
  return values;
}

std::vector<double> difference_values(const Scene& scene, const State& state, const LayerView& a,
                                      int first, int last) {
  std::vector<double> values(static_cast<std::size_t>(last - first), nan_value);
  const LayerView b = view_of(scene, state, state.b);
  for (int token = first; token < std::min({last, a.layer->tokens, b.layer->tokens}); ++token) {
    values[static_cast<std::size_t>(token - first)] = a.share(token) - b.share(token);
  }
  return values;
}

}  // namespace

std::vector<int> selected_heads(const Scene& scene, const State& state) {
  if (!state.kv_heads.empty()) {
    return state.kv_heads;
  }
  std::vector<int> heads(static_cast<std::size_t>(scene.kv_heads()));
  std::iota(heads.begin(), heads.end(), 0);
  return heads;
}

std::vector<StripToken> token_strip(const Scene& scene, const State& state, int first, int last) {
  std::vector<StripToken> strip;
  first = std::max(first, 0);
  last = std::min(last, scene.token_count());
  for (int token = first; token < last; ++token) {
    StripToken cell;
    cell.token = token;
    const std::string bytes = scene.tokens.text(token);
    cell.text = shown_token(bytes);
    cell.breaks = bytes.find('\n') != std::string::npos;
    cell.segment = scene.tokens.segment[static_cast<std::size_t>(token)];
    strip.push_back(std::move(cell));
  }
  if (scene.decisions.empty() || scene.kv_heads() == 0 || strip.empty()) {
    return strip;
  }
  const LayerView view = view_of(scene, state, state.a);
  for (StripToken& cell : strip) {
    cell.letter = cell.token < view.layer->tokens ? view.joint(cell.token) : 'N';
    cell.share = cell.token < view.layer->tokens ? view.share(cell.token) : 1;
  }
  if (state.strip == "fate") {
    return strip;
  }
  const std::vector<double> values = state.strip == "score" ? score_values(view, first, last)
                                     : state.strip == "cost"
                                         ? cost_values(scene, state, view, first, last)
                                         : difference_values(scene, state, view, first, last);
  for (std::size_t at = 0; at < strip.size(); ++at) {
    strip[at].value = values[at];
  }
  return strip;
}

}  // namespace kvscope
