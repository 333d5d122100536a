#include "kvscope/scene/state.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

using Json = nlohmann::json;

constexpr const char* scheme = "kvscope:";

struct TextKey {
  const char* name;
  std::string State::*member;
  std::vector<std::string> allowed;
};

const std::vector<TextKey>& text_keys() {
  static const std::vector<TextKey> keys = {
      {"layout", &State::layout, {"explore", "compare", "merge", "weights"}},
      {"aggregate", &State::aggregate, {"mean", "any"}},
      {"map", &State::map, {"share", "fate", "removed", "score"}},
      {"head_value",
       &State::head_value,
       {"kept", "share", "merged", "dropped", "error", "mass", "mass_no_sinks", "jaccard", "rank"}},
      {"strip", &State::strip, {"fate", "score", "cost", "difference"}},
      {"query", &State::query, {}},
      {"theme", &State::theme, {"dark", "light"}}};
  return keys;
}

struct NumberKey {
  const char* name;
  int State::*member;
};

constexpr NumberKey number_keys[] = {{"a", &State::a},         {"b", &State::b},
                                     {"layer", &State::layer}, {"token", &State::token},
                                     {"first", &State::first}, {"last", &State::last},
                                     {"seen", &State::seen}};

bool is_plain(char character) {
  return std::isalnum(static_cast<unsigned char>(character)) != 0 ||
         std::string_view("-_.,:").find(character) != std::string_view::npos;
}

std::string encode(const std::string& text) {
  std::string link;
  for (const char character : text) {
    link += is_plain(character) ? std::string(1, character)
                                : fmt::format("%{:02X}", static_cast<unsigned char>(character));
  }
  return link;
}

int hex(char digit) {
  return digit >= '0' && digit <= '9'   ? digit - '0'
         : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
         : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                        : -1;
}

std::string decode(const std::string& link) {
  std::string text;
  for (std::size_t at = 0; at < link.size(); ++at) {
    if (link[at] == '%' && at + 2 < link.size() && hex(link[at + 1]) >= 0 &&
        hex(link[at + 2]) >= 0) {
      text += static_cast<char>(16 * hex(link[at + 1]) + hex(link[at + 2]));
      at += 2;
    } else {
      text += link[at];
    }
  }
  return text;
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::usage, what, "--state",
              "copy a link from the viewer, or give a JSON object");
}

}  // namespace

std::string to_link(const State& state) {
  Json json = Json::parse(state.extra, nullptr, false);
  json = json.is_object() ? json : Json::object();
  for (const TextKey& key : text_keys()) {
    json[key.name] = state.*key.member;
  }
  for (const NumberKey& key : number_keys) {
    json[key.name] = state.*key.member;
  }
  json["kv_heads"] = state.kv_heads;
  json["before"] = state.before;
  return scheme + encode(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

State from_link(const std::string& link) {
  const std::string text = link.starts_with(scheme) ? decode(link.substr(8)) : link;
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) {
    refuse("this is no state of the viewer");
  }
  State state;
  for (const TextKey& key : text_keys()) {
    if (!json.contains(key.name)) {
      continue;
    }
    const bool known =
        json[key.name].is_string() &&
        (key.allowed.empty() || std::find(key.allowed.begin(), key.allowed.end(),
                                          json[key.name].get<std::string>()) != key.allowed.end());
    if (!known) {
      refuse(fmt::format("'{}' cannot be {}", key.name, json[key.name].dump()));
    }
    state.*key.member = json[key.name].get<std::string>();
    json.erase(key.name);
  }
  for (const NumberKey& key : number_keys) {
    if (json.contains(key.name)) {
      if (!json[key.name].is_number_integer()) {
        refuse(fmt::format("'{}' is no whole number", key.name));
      }
      state.*key.member = static_cast<int>(
          std::clamp<std::int64_t>(json[key.name].get<std::int64_t>(), -1, std::int64_t{1} << 30));
      json.erase(key.name);
    }
  }
  if (json.contains("kv_heads")) {
    if (!json["kv_heads"].is_array()) {
      refuse("'kv_heads' is no list");
    }
    for (const Json& head : json["kv_heads"]) {
      if (!head.is_number_integer()) {
        refuse("'kv_heads' holds something that is no number");
      }
      state.kv_heads.push_back(head.get<int>());
    }
    json.erase("kv_heads");
  }
  if (json.contains("before")) {
    if (!json["before"].is_boolean()) {
      refuse("'before' is neither true nor false");
    }
    state.before = json["before"].get<bool>();
    json.erase("before");
  }
  state.extra = json.dump();
  return state;
}

State clamped(State state, const StateLimits& limits) {
  const auto within = [](int value, int count) {
    return std::clamp(value, 0, std::max(count - 1, 0));
  };
  state.a = within(state.a, limits.decisions);
  state.b = within(state.b, limits.decisions);
  state.layer = within(state.layer, limits.layers);
  state.token = within(state.token, limits.tokens);
  std::erase_if(state.kv_heads, [&](int head) { return head < 0 || head >= limits.kv_heads; });
  state.last = state.last <= 0 ? limits.tokens : std::min(state.last, limits.tokens);
  state.first = std::clamp(state.first, 0, std::max(state.last - 1, 0));
  if (state.seen < 0) {
    state.seen = -1;
    state.before = false;
  }
  return state;
}

}  // namespace kvscope
