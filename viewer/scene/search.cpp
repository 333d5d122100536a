#include "kvscope/scene/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <functional>
#include <regex>

#include "kvscope/scene/moment.h"
#include "kvscope/scene/token_class.h"
#include "kvscope/scene/token_strip.h"

namespace kvscope {
namespace {

constexpr std::size_t regex_bytes = std::size_t{1} << 20;

bool number_after(const std::string& text, std::size_t at, int& number) {
  const char* end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data() + at, end, number);
  return failure == std::errc() && stop == end;
}

/// Adds a match; false when there are too many.
bool add(SearchResult& result, Match match) {
  if (static_cast<int>(result.matches.size()) >= most_matches) {
    result.cut_short = true;
    return false;
  }
  if (result.matches.empty() || !(result.matches.back() == match)) {
    result.matches.push_back(match);
  }
  return true;
}

/// Tokens whose text overlaps bytes [begin, end).
Match tokens_of(const TokenTable& tokens, std::size_t begin, std::size_t end) {
  const auto token_at = [&](std::size_t byte) {
    return static_cast<int>(std::upper_bound(tokens.text_end.begin(), tokens.text_end.end(),
                                             static_cast<std::int64_t>(byte)) -
                            tokens.text_end.begin());
  };
  return {token_at(begin), token_at(end - 1) + 1};
}

std::string lowered(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

void find_text(const TokenTable& tokens, const std::string& query, SearchResult& result) {
  const bool exact =
      std::any_of(query.begin(), query.end(), [](unsigned char c) { return std::isupper(c) != 0; });
  std::string text(tokens.text_bytes.begin(), tokens.text_bytes.end());
  if (!exact) {
    text = lowered(std::move(text));
  }
  result.meaning = fmt::format("text '{}'", query);
  for (std::size_t at = text.find(query); at != std::string::npos; at = text.find(query, at + 1)) {
    if (!add(result, tokens_of(tokens, at, at + query.size()))) {
      return;
    }
  }
}

void find_regex(const TokenTable& tokens, const std::string& pattern, SearchResult& result) {
  result.meaning = fmt::format("regular expression {}", pattern);
  const std::size_t bytes = std::min(tokens.text_bytes.size(), regex_bytes);
  result.cut_short = bytes < tokens.text_bytes.size();
  const std::string text(tokens.text_bytes.begin(),
                         tokens.text_bytes.begin() + static_cast<std::ptrdiff_t>(bytes));
  try {
    const std::regex expression(pattern);
    // Line by line: the standard library's matcher recurses once for each character it takes.
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = std::min({text.find('\n', begin), text.size(), begin + 4096});
      const char* line = text.data() + begin;
      std::cregex_iterator next(line, text.data() + end, expression);
      for (; next != std::cregex_iterator(); ++next) {
        const std::size_t at = begin + static_cast<std::size_t>(next->position());
        if (next->length() > 0 &&
            !add(result, tokens_of(tokens, at, at + static_cast<std::size_t>(next->length())))) {
          return;
        }
      }
      begin = std::max(end + (end < text.size() && text[end] == '\n' ? 1 : 0), begin + 1);
    }
  } catch (const std::regex_error& error) {
    result.problem = fmt::format("not a regular expression: {}", error.what());
  }
}

void find_where(const Scene& scene, SearchResult& result, const std::function<bool(int)>& fits) {
  for (int token = 0; token < scene.token_count(); ++token) {
    if (fits(token) && !add(result, {token, token + 1})) {
      return;
    }
  }
}

bool find_class(const Scene& scene, const std::string& name, SearchResult& result) {
  for (int kind = 0; kind < token_classes; ++kind) {
    const auto wanted = static_cast<TokenClass>(kind);
    const std::string full = token_class_name(wanted);
    if (name == full || (name == "space" && wanted == TokenClass::whitespace)) {
      result.meaning = fmt::format("tokens of class {}", full);
      find_where(scene, result,
                 [&](int token) { return token_class(scene.tokens, token) == wanted; });
      return true;
    }
  }
  result.problem =
      fmt::format("no class '{}': sink, template, question, space, digit, punctuation, word", name);
  return false;
}

/// Letters of one decision in the state's layer.
struct LayerLetters {
  std::string letters;
  const LayerDecision* layer = nullptr;

  char at(int head, int token) const {
    return token < layer->tokens ? letters[layer->cell(head, token)] : 'N';
  }
};

LayerLetters letters_of(const Scene& scene, const State& state, int decision) {
  const SceneDecision& entry = scene.decisions[static_cast<std::size_t>(decision)];
  return {letters_at(entry, state.layer, state),
          &entry.decision.layers[static_cast<std::size_t>(state.layer)]};
}

bool holds(char letter) {
  return std::string_view("KPTS").find(letter) != std::string_view::npos;
}

void find_fate(const Scene& scene, const State& state, std::string_view wanted,
               SearchResult& result) {
  const LayerLetters a = letters_of(scene, state, state.a);
  const std::vector<int> heads = selected_heads(scene, state);
  find_where(scene, result, [&](int token) {
    return std::any_of(heads.begin(), heads.end(), [&](int head) {
      return wanted.find(a.at(head, token)) != std::string_view::npos;
    });
  });
}

void find_only(const Scene& scene, const State& state, bool of_a, SearchResult& result) {
  const LayerLetters mine = letters_of(scene, state, of_a ? state.a : state.b);
  const LayerLetters other = letters_of(scene, state, of_a ? state.b : state.a);
  const std::vector<int> heads = selected_heads(scene, state);
  find_where(scene, result, [&](int token) {
    return std::any_of(heads.begin(), heads.end(), [&](int head) {
      const char theirs = other.at(head, token);
      return holds(mine.at(head, token)) && !holds(theirs) && theirs != 'N';
    });
  });
}

void find_lost(const Scene& scene, const State& state, int least, SearchResult& result) {
  const SceneDecision& entry = scene.decisions[static_cast<std::size_t>(state.a)];
  const auto covered = static_cast<std::size_t>(entry.decision.tokens);
  std::vector<int> held(covered, 0);
  for (std::size_t at = 0; at < entry.heads_by_layer.size(); ++at) {
    held[at % covered] += entry.heads_by_layer[at];
  }
  const int heads = scene.layers() * scene.kv_heads();
  result.meaning = fmt::format("lost in at least {} of {} heads", least, heads);
  find_where(scene, result, [&](int token) {
    return token < entry.decision.tokens && heads - held[static_cast<std::size_t>(token)] >= least;
  });
}

/// Queries over fates; false if the query is none.
bool find_by_decision(const Scene& scene, const State& state, SearchResult& result) {
  const std::string& query = state.query;
  constexpr std::pair<const char*, const char*> fates[] = {
      {"merged", "M"}, {"dropped", "D"}, {"evicted", "E"}, {"kept", "KPTS"}};
  const auto fate = std::find_if(std::begin(fates), std::end(fates),
                                 [&](const auto& entry) { return query == entry.first; });
  const bool only = query == "only:a" || query == "only:b";
  int least = 0;
  const bool lost = query.starts_with("lost>=") && number_after(query, 6, least);
  if (fate == std::end(fates) && !only && !lost) {
    return false;
  }
  if (scene.decisions.empty()) {
    result.problem = "no decision is open";
  } else if (lost) {
    find_lost(scene, state, least, result);
  } else if (only) {
    result.meaning = fmt::format("held by {} alone, layer {}", query == "only:a" ? "A" : "B",
                                 scene.layer_of(state.layer));
    find_only(scene, state, query == "only:a", result);
  } else {
    result.meaning = fmt::format("{} in layer {}", query, scene.layer_of(state.layer));
    find_fate(scene, state, fate->second, result);
  }
  return true;
}

}  // namespace

SearchResult search(const Scene& scene, const State& state) {
  SearchResult result;
  const std::string& query = state.query;
  int number = 0;
  if (query.empty() || scene.token_count() == 0 || find_by_decision(scene, state, result)) {
    return result;
  }
  if (query.size() > 2 && query.front() == '/' && query.back() == '/') {
    find_regex(scene.tokens, query.substr(1, query.size() - 2), result);
  } else if (query.starts_with("class:")) {
    find_class(scene, query.substr(6), result);
  } else if (query.front() == '#' && number_after(query, 1, number)) {
    result.meaning = fmt::format("token id {}", number);
    find_where(scene, result, [&](int token) {
      return scene.tokens.id[static_cast<std::size_t>(token)] == number;
    });
  } else if (query.front() == '@' && number_after(query, 1, number)) {
    result.meaning = fmt::format("token {}", number);
    if (number >= 0 && number < scene.token_count()) {
      add(result, {number, number + 1});
    }
  } else {
    find_text(scene.tokens, query, result);
  }
  return result;
}

int match_beside(const std::vector<Match>& matches, int token, int by) {
  if (matches.empty()) {
    return -1;
  }
  const auto count = static_cast<int>(matches.size());
  if (by > 0) {
    const auto next = std::find_if(matches.begin(), matches.end(),
                                   [&](const Match& match) { return match.first > token; });
    return next == matches.end() ? 0 : static_cast<int>(next - matches.begin());
  }
  const auto previous = std::find_if(matches.rbegin(), matches.rend(),
                                     [&](const Match& match) { return match.first < token; });
  return previous == matches.rend() ? count - 1
                                    : count - 1 - static_cast<int>(previous - matches.rbegin());
}

}  // namespace kvscope
