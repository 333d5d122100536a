#pragma once

#include <string>
#include <vector>

namespace kvscope {

/// What a person has selected and how it is shown. One struct, one serialiser: deep link, undo
/// step, command-line flag and test case are the same thing.
struct State {
  std::string layout = "explore";  ///< explore, compare, merge, weights
  int a = 0;                       ///< decision shown
  int b = 1;                       ///< decision compared with
  int layer = 0;                   ///< row among the captured layers
  std::vector<int> kv_heads;       ///< selected; empty = all
  int token = 0;
  int first = 0;  ///< tokens in view: [first, last); last 0 = all
  int last = 0;
  int seen =
      -1;  ///< tokens that have passed the model at the moment shown; -1 = the end of the run
  bool before = false;              ///< the cut at that moment has not happened yet
  std::string aggregate = "mean";   ///< of a pixel's tokens: mean, or any (any loss)
  std::string map = "share";        ///< cells of the token map: share, fate, removed, score
  std::string head_value = "kept";  ///< an id of `head_values()`
  std::string strip = "fate";       ///< grounds of the token strip: fate, score, cost, difference
  std::string query;                ///< what is searched for; see search.h
  std::string theme = "dark";       ///< dark, light
  std::string extra = "{}";         ///< keys of other versions, kept as they came (JSON object)

  bool operator==(const State&) const = default;
};

/// A link: "kvscope:" and the state as JSON, percent-encoded where a shell would mind.
std::string to_link(const State& state);

/// Reads a link, or bare JSON. Unknown keys are kept. Throws Error{usage} for anything else.
State from_link(const std::string& link);

/// What the state may point at.
struct StateLimits {
  int decisions = 0;
  int layers = 0;
  int kv_heads = 0;
  int tokens = 0;
};

/// The nearest state that points at things that exist.
State clamped(State state, const StateLimits& limits);

}  // namespace kvscope
