#pragma once

#include <cstdint>
#include <string>

namespace kvscope::test {

/// A model whose weights are written down by hand, so that its answer is known: one layer, two
/// heads.
///   A digit is a needle. At '?', head 0 looks for needles: its logit is `needle_logit` there and 0
///   everywhere else; every other query sees all tokens alike. The next token is the needle's digit
///   if head 0 finds it, and '-' if not. Head 1 sees all tokens alike, always, and says nothing.
///   Keys of head 0: of needles `needle_key_norm` long, of other letters `filler_key_norm` and at a
///   right angle to needles', of '?' zero. The bands used turn by less than 0.001 in 100 tokens.
inline constexpr double needle_logit = 20.0;
inline constexpr double needle_key_norm = 10.64;
inline constexpr double filler_key_norm = 1.70;

/// Token of a byte.
constexpr std::int32_t needle_token(char byte) {
  return 3 + static_cast<unsigned char>(byte);
}

/// Writes the model as a GGUF file (F32, architecture llama).
void write_needle_model(const std::string& path);

}  // namespace kvscope::test
