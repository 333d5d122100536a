#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/palette.h"
#include "kvscope/scene/scene.h"

namespace kvscope {

/// One token of the strip.
struct StripToken {
  int token = 0;
  std::string text;     ///< as shown; "" for none
  bool breaks = false;  ///< a line ends after it
  char letter = '?';  ///< fate if unanimous over the selected heads; lower case for "some of them"
  double share = 1;   ///< of the selected heads that hold it, in the state's layer
  double value = 0;   ///< what `state.strip` colours by: score and cost in [0, 1], difference in
                      ///< [-1, 1]; NaN = not stored. Nothing for "fate".
  Segment segment = Segment::context;
};

/// Tokens [first, last) as decision A left them in the state's layer and heads, at its moment.
/// Score is the rank in the head, 1 = best; cost the error of losing the token alone, set against
/// the layer's largest; difference A's kept share minus B's.
std::vector<StripToken> token_strip(const Scene& scene, const State& state, int first, int last);

/// Selected heads of a state: all of them where it names none.
std::vector<int> selected_heads(const Scene& scene, const State& state);

}  // namespace kvscope
