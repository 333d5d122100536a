#include "nfc.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unicode_tables.h"
#include "unigram.h"

namespace kvscope {
namespace {

constexpr std::uint32_t invalid = 0x80000000u;  ///< marks a byte that is no character
constexpr std::uint32_t hangul_base = 0xAC00, lead_base = 0x1100, vowel_base = 0x1161,
                        trail_base = 0x11A7;
constexpr std::uint32_t leads = 19, vowels = 21, trails = 28;

struct Tables {
  std::unordered_map<std::uint32_t, std::pair<std::uint32_t, std::uint32_t>> parts;
  std::unordered_map<std::uint64_t, std::uint32_t> composed;
  std::unordered_map<std::uint32_t, int> combining;
};

std::uint64_t pair_of(std::uint32_t first, std::uint32_t second) {
  return std::uint64_t{first} << 32 | second;
}

const Tables& tables() {
  static const Tables all = [] {
    Tables built;
    const auto number = [](std::string_view digits) {
      return static_cast<std::uint32_t>(std::strtoul(std::string(digits).c_str(), nullptr, 16));
    };
    const std::string_view compositions = composition_digits;
    for (std::size_t at = 0; at + 16 <= compositions.size(); at += 16) {
      const std::uint32_t point = number(compositions.substr(at, 5));
      const std::uint32_t first = number(compositions.substr(at + 5, 5));
      const std::uint32_t second = number(compositions.substr(at + 10, 5));
      built.parts[point] = {first, second};
      if (compositions[at + 15] == '0') {
        built.composed[pair_of(first, second)] = point;
      }
    }
    const std::string_view singletons = singleton_digits;
    for (std::size_t at = 0; at + 10 <= singletons.size(); at += 10) {
      built.parts[number(singletons.substr(at, 5))] = {number(singletons.substr(at + 5, 5)), 0};
    }
    const std::string_view classes = combining_digits;
    for (std::size_t at = 0; at + 12 <= classes.size(); at += 12) {
      const std::uint32_t last = number(classes.substr(at + 5, 5));
      for (std::uint32_t point = number(classes.substr(at, 5)); point <= last; ++point) {
        built.combining[point] = static_cast<int>(number(classes.substr(at + 10, 2)));
      }
    }
    return built;
  }();
  return all;
}

int class_of(std::uint32_t point) {
  const auto found = tables().combining.find(point);
  return found == tables().combining.end() ? 0 : found->second;
}

void decompose(std::uint32_t point, std::vector<std::uint32_t>& out) {
  if (point >= hangul_base && point < hangul_base + leads * vowels * trails) {
    const std::uint32_t index = point - hangul_base;
    out.push_back(lead_base + index / (vowels * trails));
    out.push_back(vowel_base + index / trails % vowels);
    if (index % trails != 0) {
      out.push_back(trail_base + index % trails);
    }
    return;
  }
  const auto found = tables().parts.find(point);
  if (found == tables().parts.end()) {
    out.push_back(point);
    return;
  }
  decompose(found->second.first, out);
  if (found->second.second != 0) {
    decompose(found->second.second, out);
  }
}

/// The composition of two characters, or 0.
std::uint32_t compose(std::uint32_t first, std::uint32_t second) {
  if (first >= lead_base && first < lead_base + leads && second >= vowel_base &&
      second < vowel_base + vowels) {
    return hangul_base + ((first - lead_base) * vowels + second - vowel_base) * trails;
  }
  if (first >= hangul_base && first < hangul_base + leads * vowels * trails &&
      (first - hangul_base) % trails == 0 && second > trail_base && second < trail_base + trails) {
    return first + second - trail_base;
  }
  const auto found = tables().composed.find(pair_of(first, second));
  return found == tables().composed.end() ? 0 : found->second;
}

std::vector<std::uint32_t> points_of(std::string_view text) {
  std::vector<std::uint32_t> points;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_size(text, at);
    const auto lead = static_cast<unsigned char>(text[at]);
    std::uint32_t point =
        size == 1 ? (lead < 0x80 ? lead : lead | invalid) : lead & ((1u << (7 - size)) - 1);
    for (std::size_t byte = 1; byte < size; ++byte) {
      point = point << 6 | (static_cast<unsigned char>(text[at + byte]) & 0x3Fu);
    }
    points.push_back(point);
    at += size;
  }
  return points;
}

void put(std::uint32_t point, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((point >> shift) & 0x3F)); };
  if ((point & invalid) != 0 || point < 0x80) {
    out += static_cast<char>(point & 0xFF);
  } else if (point < 0x800) {
    out += static_cast<char>(0xC0 | (point >> 6));
    tail(0);
  } else if (point < 0x10000) {
    out += static_cast<char>(0xE0 | (point >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | (point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

/// Joins each character with the last starter before it, unless something between blocks it.
std::vector<std::uint32_t> recompose(const std::vector<std::uint32_t>& points) {
  std::vector<std::uint32_t> out;
  std::size_t starter = static_cast<std::size_t>(-1);
  int last_class = 0;
  for (const std::uint32_t point : points) {
    const int combining = class_of(point);
    const bool has_starter = starter != static_cast<std::size_t>(-1);
    const bool blocked = has_starter && out.size() > starter + 1 && last_class >= combining;
    const std::uint32_t joined = has_starter && !blocked ? compose(out[starter], point) : 0;
    if (joined != 0) {
      out[starter] = joined;
      continue;
    }
    if (combining == 0) {
      starter = out.size();
    }
    last_class = combining;
    out.push_back(point);
  }
  return out;
}

}  // namespace

std::string nfc(std::string_view text) {
  // Everything below U+0300 is composed already and joins nothing before it.
  if (std::all_of(text.begin(), text.end(),
                  [](char byte) { return static_cast<unsigned char>(byte) < 0xCC; })) {
    return std::string(text);
  }
  std::vector<std::uint32_t> points;
  for (const std::uint32_t point : points_of(text)) {
    decompose(point, points);
  }
  for (auto first = points.begin(); first != points.end();) {
    if (class_of(*first) == 0) {
      ++first;
      continue;
    }
    const auto last =
        std::find_if(first, points.end(), [](std::uint32_t p) { return class_of(p) == 0; });
    std::stable_sort(first, last,
                     [](std::uint32_t a, std::uint32_t b) { return class_of(a) < class_of(b); });
    first = last;
  }
  std::string out;
  for (const std::uint32_t point : recompose(points)) {
    put(point, out);
  }
  return out;
}

}  // namespace kvscope
