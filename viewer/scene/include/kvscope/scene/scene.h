#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvscope/core/capture_index.h"
#include "kvscope/core/decision.h"
#include "kvscope/core/spectrum.h"
#include "kvscope/core/tokens.h"
#include "kvscope/scene/agreement.h"
#include "kvscope/scene/answers.h"
#include "kvscope/scene/checks.h"
#include "kvscope/scene/fate_counts.h"
#include "kvscope/scene/state.h"

namespace kvscope {

/// A decision with what every panel asks of it, counted once.
struct SceneDecision {
  Decision decision;
  std::string title;  ///< "1 snapkv 0.2"
  FateTable fates;
  std::int64_t whole_slots = 0;      ///< held at the end, come after the last cut
  std::vector<std::string> letters;  ///< [layers] of [kv_heads * tokens] fate letters
  std::vector<int> heads_by_layer;   ///< [layers, tokens] KV heads in which the token holds a slot
  std::vector<Finding> findings;
};

/// What the full cache held for probable after one decode step.
struct StepChoices {
  std::vector<int> token;              ///< ids, most probable first
  std::vector<float> log_probability;  ///< natural
};

/// Everything that was opened. Immutable once made; panels are functions of a scene and a state.
struct Scene {
  CaptureIndex capture;
  TokenTable tokens;
  std::vector<SceneDecision> decisions;
  std::optional<Spectrum> spectrum;
  std::vector<StepChoices> choices;  ///< [decode steps] of the captured run
  std::optional<Answers> answers;    ///< of `kvscope generate` on the same prompt

  StateLimits limits() const;
  int layers() const;  ///< rows of the maps
  int kv_heads() const;
  int token_count() const;
  /// True index of a row of the maps.
  int layer_of(int row) const;
};

/// Joins what was read from files. Throws Error{usage} if a decision belongs to another prompt,
/// model or shape than the capture, or decisions disagree with each other.
Scene make_scene(const CaptureIndex& capture, const TokenTable& tokens,
                 std::vector<Decision> decisions, std::optional<Spectrum> spectrum);

/// Adds a decision; the others keep their places. `note` goes behind its title. Throws as
/// make_scene does.
void add_decision(Scene& scene, Decision decision, const std::string& note = {});

/// A cell of the maps; -1 = none.
struct Place {
  int row = -1;
  int kv_head = -1;
  int token = -1;
};

/// The token of the text (not of the chat template) whose loss costs most in decision A by its
/// metrics; without metrics the first lost one.
Place costliest_loss(const Scene& scene, const State& state);

/// The state a scene opens with: where the first decision's most costly loss lies.
State first_state(const Scene& scene);

/// A token as a panel writes it: space as a middle dot, line breaks and control characters as
/// signs, bytes that are no UTF-8 as hexadecimal.
std::string shown_token(const std::string& bytes);

}  // namespace kvscope
