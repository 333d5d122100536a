#include "kvscope/scene/token_strip.h"

#include <algorithm>
#include <cctype>
#include <numeric>

namespace kvscope {
namespace {

bool holds(char letter) {
  return std::string_view("KPTS").find(letter) != std::string_view::npos;
}

/// The common letter of the heads; in lower case the most costly one where they differ.
char joint_letter(const std::string& letters, const LayerDecision& layer,
                  const std::vector<int>& heads, int token) {
  const char first = letters[layer.cell(heads.front(), token)];
  char worst = first;
  bool same = true;
  for (const int head : heads) {
    const char letter = letters[layer.cell(head, token)];
    same = same && letter == first;
    if (!holds(letter)) {
      worst = letter;
    }
  }
  return same ? first : static_cast<char>(std::tolower(static_cast<unsigned char>(worst)));
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
  const std::vector<int> heads = selected_heads(scene, state);
  const SceneDecision* entry =
      scene.decisions.empty() ? nullptr : &scene.decisions[static_cast<std::size_t>(state.a)];
  last = std::min(last, scene.token_count());
  for (int token = std::max(first, 0); token < last; ++token) {
    StripToken cell;
    cell.token = token;
    const std::string bytes = scene.tokens.text(token);
    cell.text = shown_token(bytes);
    cell.breaks = bytes.find('\n') != std::string::npos;
    cell.segment = scene.tokens.segment[static_cast<std::size_t>(token)];
    if (entry != nullptr && !heads.empty()) {
      const auto row = static_cast<std::size_t>(state.layer);
      const LayerDecision& layer = entry->decision.layers[row];
      if (token >= layer.tokens) {
        cell.letter = 'N';
      } else {
        cell.letter = joint_letter(entry->letters[row], layer, heads, token);
        const auto held = std::count_if(heads.begin(), heads.end(), [&](int head) {
          return holds(entry->letters[row][layer.cell(head, token)]);
        });
        cell.share = static_cast<double>(held) / static_cast<double>(heads.size());
      }
    }
    strip.push_back(std::move(cell));
  }
  return strip;
}

}  // namespace kvscope
