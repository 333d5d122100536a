#pragma once

#include <cstdint>
#include <string>

namespace kvscope {

/// What a budget is spent on.
struct BudgetScope {
  int tokens = 0;
  int layers = 0;
  int kv_heads = 0;
  std::int64_t slot_bytes = 0;  ///< key and value of one slot of one KV head
};

/// How much may stay: a fraction of the tokens, slots per KV head, or bytes over the model.
/// The one place where a fraction becomes whole slots.
class Budget {
 public:
  enum class Unit { fraction, slots, bytes };
  /// ours: floor(fraction * tokens + 1e-9), at least 1. reference: trunc(tokens * (1 - (1 -
  /// fraction))) in IEEE double, as kvpress counts; may be 0.
  enum class Rounding { ours, reference };

  static Budget of_fraction(double fraction, Rounding rounding = Rounding::ours);
  static Budget of_slots(int slots);
  static Budget of_bytes(std::int64_t bytes);
  /// "0.2" (a decimal point: fraction in (0, 1]), "1024" (slots per KV head), "64MiB" (B, KiB, MiB,
  /// GiB). Throws Error{usage} for anything else.
  static Budget parse(const std::string& text, Rounding rounding = Rounding::ours);

  Unit unit() const { return unit_; }
  Rounding rounding() const { return rounding_; }
  double fraction() const { return fraction_; }
  /// As typed: what `parse` reads back.
  std::string text() const;

  /// Slots of one KV head under a uniform split, at most `scope.tokens`.
  int slots_per_head(const BudgetScope& scope) const;
  /// Slots of the whole model: layers * kv_heads * slots_per_head.
  std::int64_t total_slots(const BudgetScope& scope) const;

 private:
  Unit unit_ = Unit::fraction;
  Rounding rounding_ = Rounding::ours;
  double fraction_ = 1.0;
  std::int64_t amount_ = 0;
};

}  // namespace kvscope
