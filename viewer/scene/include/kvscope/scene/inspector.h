#pragma once

#include <string>
#include <vector>

#include "kvscope/scene/scene.h"

namespace kvscope {

/// Why one decision treated a token as it did, in one KV head.
struct WhyRow {
  int decision = 0;
  int kv_head = 0;
  std::string title;
  char letter = '?';
  std::string reason;
  bool has_score = false;
  double score = 0;
  int rank = 0;  ///< 1 = best of the head, among tokens with a score; ties: the lower token first
  int candidates = 0;  ///< tokens of the head with a score
  int granted = 0;     ///< slots of the head
  double cut = 0;      ///< score of the last kept; NaN where no score decided
  double first_lost = 0;
  double margin = 0;      ///< (score - cut) / |cut|; NaN without
  double lost_error = 0;  ///< relative output error of losing this token alone; NaN without metrics
  int removed_seen = -1;  ///< tokens that had passed when it lost its slot; -1 = never
  struct Term {
    std::string name;
    std::string unit;
    double value = 0;
    double percentile = 0;  ///< share of the head's tokens with a smaller value
  };
  std::vector<Term> terms;
  std::string combine;      ///< how the terms make the score, as the method says it
  /// "into 81 (key weight 0.25, value weight 1)" for merged tokens; "from 82 (...)" for targets.
  std::string merged_into;
  /// Tokens that the slot stood for before the merge and after it: the target's at the cut that
  /// merged this token, or this token's own before its first merge and at the moment. NaN without
  /// merges, and where one token went into several slots.
  double multiplicity_before = 0;
  double multiplicity_after = 0;
};

struct Inspection {
  int token = 0;
  std::string text;
  std::int32_t id = 0;
  int position = 0;
  std::string segment;
  std::string kind;    ///< token class
  int layer = 0;       ///< true index
  int kept_heads = 0;  ///< of decision A, over all layers
  int heads = 0;
  std::vector<WhyRow> rows;  ///< every decision x selected head
};

/// Why a decision treated a token so in one layer (row among the captured ones) and KV head;
/// `letter` is its fate there, after the first `cuts` events; -1 = all.
WhyRow why_row(const Decision& decision, int layer_row, int kv_head, int token, char letter,
               int cuts = -1);

/// At the moment of the state. Cost: one pass over the tokens of each selected head and decision.
Inspection inspect_token(const Scene& scene, const State& state);

/// A row in sentences: the fate and its reason, the rank against the slots, the margin to the cut,
/// the method's own terms, merges, and what losing the token costs.
std::string why_text(const WhyRow& row);

}  // namespace kvscope
