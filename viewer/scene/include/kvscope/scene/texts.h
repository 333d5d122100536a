#pragma once

#include <string>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// One line on what is open: model, shape, tokens, profile.
std::string headline(const Scene& scene);

/// Where a state points, for a bookmark: "' 4173' (token 417), layer 12, head 1, snapkv 0.2".
std::string place_title(const Scene& scene, const State& state);

/// What the inspector shows, as text: the token, and why each decision treated it as it did.
std::string inspection_text(const Scene& scene, const State& state);

/// Decision A in the state's layer and heads as CSV (RFC 4180): a row for each KV head and token.
std::string export_csv(const Scene& scene, const State& state);

/// A whole number in groups of three: "1,534".
std::string grouped_digits(std::int64_t number);

/// Bytes of `held` slots, `whole` of which no cut has passed: "12.4 MiB"; empty if the shape is not
/// known.
std::string slots_as_bytes(const Scene& scene, const CacheForm& form, std::int64_t held,
                           std::int64_t whole);

}  // namespace kvscope
