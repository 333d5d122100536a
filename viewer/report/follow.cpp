#include <fmt/format.h>

#include <algorithm>

#include "build.h"
#include "kvscope/report/formats.h"

namespace kvscope::report {
namespace {

bool holds_slot(const LayerDecision& layer, int kv_head, int token) {
  const Fate fate = layer.fate[layer.cell(kv_head, token)];
  return fate == Fate::kept || fate == Fate::skipped;
}

FoundToken follow_token(const Decision& decision, const TokenTable& tokens, int token) {
  FoundToken found;
  found.token = token;
  found.text = printable(tokens.text(token));
  for (const LayerDecision& layer : decision.layers) {
    FoundToken::Loss loss;
    loss.layer = layer.layer;
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      ++found.heads;
      if (holds_slot(layer, kv_head, token)) {
        ++found.held;
      } else {
        loss.kv_heads.push_back(kv_head);
        loss.letters += fate_letter(layer, kv_head, token);
      }
    }
    if (!loss.kv_heads.empty()) {
      found.lost.push_back(std::move(loss));
    }
  }
  return found;
}

FoundFate follow_fate(const Decision& decision, const TokenTable& tokens, int first, int last) {
  FoundFate fate;
  for (int token = first; token < std::min(last, decision.tokens); ++token) {
    fate.tokens.push_back(follow_token(decision, tokens, token));
  }
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
      int held = 0;
      for (const FoundToken& token : fate.tokens) {
        held += holds_slot(layer, kv_head, token.token);
      }
      ++fate.heads;
      fate.whole_heads += held == static_cast<int>(fate.tokens.size());
      fate.none_heads += held == 0;
    }
  }
  if (fate.tokens.empty()) {
    fate.verdict = "not covered";
    fate.whole_heads = 0;
    return fate;
  }
  bool gone = false;
  bool folded = true;  // what has no slot anywhere lives on in others
  for (const FoundToken& token : fate.tokens) {
    gone = gone || token.held == 0;
    for (const FoundToken::Loss& loss : token.lost) {
      folded = folded && loss.letters.find_first_not_of('M') == std::string::npos;
    }
  }
  fate.verdict = gone                             ? (folded ? "merged away" : "lost")
                 : fate.whole_heads == fate.heads ? "kept whole"
                                                  : "kept in part";
  return fate;
}

}  // namespace

std::string lost_places(const FoundToken& token, int kv_heads) {
  std::string letters;
  for (const FoundToken::Loss& loss : token.lost) {
    letters += loss.letters;
  }
  if (letters.empty()) {
    return "";
  }
  const bool one_fate = letters.find_first_not_of(letters.front()) == std::string::npos;
  std::string text;
  for (std::size_t first = 0; first < token.lost.size();) {
    const FoundToken::Loss& loss = token.lost[first];
    std::size_t last = first + 1;
    while (last < token.lost.size() && token.lost[last].layer == token.lost[last - 1].layer + 1 &&
           token.lost[last].kv_heads == loss.kv_heads && token.lost[last].letters == loss.letters) {
      ++last;
    }
    text += text.empty() ? "" : "; ";
    text += last - first > 1 ? fmt::format("L{}-{}", loss.layer, token.lost[last - 1].layer)
                             : fmt::format("L{}", loss.layer);
    text += static_cast<int>(loss.kv_heads.size()) == kv_heads ? " all"
                                                               : " " + head_list(loss.kv_heads);
    text += one_fate ? "" : " " + loss.letters;
    first = last;
  }
  return one_fate ? fmt::format("{} ({})", text, letters.front()) : text;
}

FoundText follow(const std::string& needle, const TokenTable& tokens,
                 const std::vector<Decision>& decisions) {
  FoundText found;
  found.needle = needle;
  const TokenTable::Range range = tokens.find(needle);
  found.found = range.first < range.last;
  if (!found.found) {
    return found;
  }
  found.first = range.first;
  found.last = range.last;
  const Surroundings text = surroundings(tokens, range.first, range.last, 12);
  found.before = text.before;
  found.text = text.text;
  found.after = text.after;
  for (TokenTable::Range next = range; next.first < next.last;) {
    ++found.occurrences;
    next = tokens.find(needle, tokens.text_end[static_cast<std::size_t>(next.last) - 1]);
  }
  for (std::size_t method = 0; method < decisions.size(); ++method) {
    found.fates.push_back(follow_fate(decisions[method], tokens, range.first, range.last));
    found.fates.back().method = static_cast<int>(method);
  }
  return found;
}

}  // namespace kvscope::report
