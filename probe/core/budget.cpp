#include "kvscope/core/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr std::array<std::pair<const char*, std::int64_t>, 4> byte_units = {
    {{"GiB", std::int64_t{1} << 30},
     {"MiB", std::int64_t{1} << 20},
     {"KiB", std::int64_t{1} << 10},
     {"B", 1}}};

constexpr const char* forms =
    "write a fraction with a decimal point (0.2), whole slots per KV head (1024) or a size (64MiB)";

[[noreturn]] void refuse(const std::string& text, const std::string& why) {
  throw Error(ErrorCode::usage, fmt::format("budget '{}' {}", text, why), "--keep", forms);
}

double parse_number(const std::string& digits, const std::string& text) {
  double value = 0;
  const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (failure != std::errc{} || end != digits.data() + digits.size() || !std::isfinite(value)) {
    refuse(text, "is not a number");
  }
  return value;
}

}  // namespace

Budget Budget::of_fraction(double fraction, Rounding rounding) {
  Budget budget;
  budget.unit_ = Unit::fraction;
  budget.rounding_ = rounding;
  budget.fraction_ = fraction;
  KVSCOPE_CHECK(fraction > 0.0 && fraction <= 1.0, ErrorCode::usage,
                fmt::format("keep fraction {} lies outside (0, 1]", fraction), "--keep", forms);
  return budget;
}

Budget Budget::of_slots(int slots) {
  KVSCOPE_CHECK(slots > 0, ErrorCode::usage,
                fmt::format("a budget of {} slots keeps nothing", slots), "--keep", forms);
  Budget budget;
  budget.unit_ = Unit::slots;
  budget.amount_ = slots;
  return budget;
}

Budget Budget::of_bytes(std::int64_t bytes) {
  KVSCOPE_CHECK(bytes > 0, ErrorCode::usage,
                fmt::format("a budget of {} bytes keeps nothing", bytes), "--keep", forms);
  Budget budget;
  budget.unit_ = Unit::bytes;
  budget.amount_ = bytes;
  return budget;
}

Budget Budget::parse(const std::string& text, Rounding rounding) {
  for (const auto& [suffix, factor] : byte_units) {
    if (text.size() > std::char_traits<char>::length(suffix) && text.ends_with(suffix)) {
      const double amount =
          parse_number(text.substr(0, text.size() - std::char_traits<char>::length(suffix)), text) *
          static_cast<double>(factor);
      if (amount < 1.0 || amount > 9e15) {
        refuse(text, "is not a size that a cache can have");
      }
      return of_bytes(static_cast<std::int64_t>(amount));
    }
  }
  const double value = parse_number(text, text);
  if (text.find_first_of(".eE") != std::string::npos) {
    if (!(value > 0.0) || value > 1.0) {
      refuse(text, "is a fraction outside (0, 1]");
    }
    return of_fraction(value, rounding);
  }
  if (value < 1.0 || value > 2147483647.0) {
    refuse(text, "keeps no slot");
  }
  return of_slots(static_cast<int>(value));
}

std::string Budget::text() const {
  switch (unit_) {
    case Unit::slots:
      return fmt::format("{}", amount_);
    case Unit::bytes:
      for (const auto& [suffix, factor] : byte_units) {
        if (amount_ % factor == 0) {
          return fmt::format("{}{}", amount_ / factor, suffix);
        }
      }
      break;
    case Unit::fraction:
      break;
  }
  std::string digits = fmt::format("{}", fraction_);
  return digits.find_first_of(".e") == std::string::npos ? digits + ".0" : digits;
}

int Budget::slots_per_head(const BudgetScope& scope) const {
  const double tokens = static_cast<double>(scope.tokens);
  switch (unit_) {
    case Unit::slots:
      return static_cast<int>(std::min<std::int64_t>(amount_, scope.tokens));
    case Unit::bytes: {
      const std::int64_t one_everywhere =
          scope.slot_bytes * std::int64_t{scope.layers} * std::int64_t{scope.kv_heads};
      KVSCOPE_CHECK(one_everywhere > 0 && amount_ >= one_everywhere, ErrorCode::usage,
                    fmt::format("budget {} is below {} bytes, one slot in each layer and KV head",
                                text(), one_everywhere),
                    "--keep", "ask for more, or for slots");
      return static_cast<int>(std::min<std::int64_t>(amount_ / one_everywhere, scope.tokens));
    }
    case Unit::fraction:
      break;
  }
  if (rounding_ == Rounding::reference) {
    // kvpress knows the removed fraction only; its double noise is part of the rule (baselines
    // 0.3).
    const double removed = 1.0 - fraction_;
    const double removed_as_typed = std::round(removed * 1e12) / 1e12;
    return static_cast<int>(tokens * (1.0 - removed_as_typed));
  }
  return std::clamp(static_cast<int>(std::floor(fraction_ * tokens + 1e-9)),
                    std::min(1, scope.tokens), scope.tokens);
}

std::int64_t Budget::total_slots(const BudgetScope& scope) const {
  return std::int64_t{slots_per_head(scope)} * scope.layers * scope.kv_heads;
}

}  // namespace kvscope
