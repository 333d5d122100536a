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
  struct Term {
    std::string name;
    double value = 0;
  };
  std::vector<Term> terms;
  std::string merged_into;  ///< "token 81 (0.25)" for merged tokens; sources for targets
};

struct Inspection {
  int token = 0;
  std::string text;
  std::int32_t id = 0;
  int position = 0;
  std::string segment;
  int layer = 0;       ///< true index
  int kept_heads = 0;  ///< of decision A, over all layers
  int heads = 0;
  std::vector<WhyRow> rows;  ///< every decision x selected head
};

Inspection inspect_token(const Scene& scene, const State& state);

}  // namespace kvscope
