#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/core/cache_form.h"

namespace kvscope {

/// What became of a token in one KV head; the values are those on disk (low nibble).
enum class Fate : std::uint8_t { kept = 0, merged = 1, evicted = 2, dropped = 3, skipped = 4 };

/// Why; the values are those on disk (high nibble).
enum class Reason : std::uint8_t {
  score = 0,
  sink = 1,
  recent = 2,
  head_floor = 3,
  within_budget = 4,
  threshold = 5,
  rule = 6,
  observation_window = 7,
  merger_declined = 8,
};

/// `removed_at` of a token that still holds its slot.
inline constexpr std::uint32_t alive = 0xFFFFFFFFu;

/// One token's content folded into another's slot.
struct MergeEdge {
  int kv_head = 0;
  int source = 0;  ///< token
  int target = 0;  ///< token whose slot receives; equal to source for the target's own share
  int event = 0;
  float key_weight = 0;
  float value_weight = 0;
  float count = 1;   ///< multiplicity carried over
  int key_row = -1;  ///< row of LayerDecision::key_rows that is the target's finished key, or -1
};

/// Where the cut fell in one KV head. NaN where no score decided.
struct Cut {
  float granted = 0;
  float last_kept = 0;
  float first_lost = 0;
};

/// One layer's answer: a fate and a reason for each token and KV head.
struct LayerDecision {
  int layer = 0;
  int kv_heads = 0;
  int tokens = 0;
  std::vector<Fate> fate;                 ///< [kv_heads, tokens]
  std::vector<Reason> reason;             ///< [kv_heads, tokens]
  std::vector<std::uint32_t> removed_at;  ///< [kv_heads, tokens] event, or `alive`
  std::vector<MergeEdge> edges;           ///< sorted by (event, kv_head, target, source)
  std::vector<float> key_rows;            ///< [rows, head_dim] in the cache's frame; optional
  int key_row_dim = 0;
  std::vector<int> granted;   ///< [kv_heads] slots
  std::vector<Cut> cut;       ///< [kv_heads] of the last event
  std::vector<float> scores;  ///< [kv_heads, tokens]; empty = not stored; NaN by rule
  std::vector<float> terms;   ///< [terms, kv_heads, tokens]; empty = not stored

  std::size_t cell(int kv_head, int token) const {
    return static_cast<std::size_t>(kv_head) * static_cast<std::size_t>(tokens) +
           static_cast<std::size_t>(token);
  }
  int kept(int kv_head) const;  ///< tokens that hold a slot
  /// Everything kept, reason `within_budget`, granted = tokens.
  static LayerDecision keep_all(int layer, int kv_heads, int tokens);
};

/// One cut of a run.
struct DecisionEvent {
  int step = 0;         ///< 0 = prefill
  int tokens_seen = 0;  ///< tokens before the cut
  std::int64_t wall_ns = 0;
};

/// What a decision costs, computed by `decide` or a live run and stored with it.
struct DecisionMetrics {
  std::string queries;  ///< population, in words
  int query_count = 0;
  bool seen_by_method = false;                ///< the method looked at these very queries
  std::vector<float> output_error;            ///< [layers, query_heads] relative L2
  std::vector<float> retained_mass;           ///< [layers, query_heads]
  std::vector<float> retained_mass_no_sinks;  ///< [layers, query_heads] first 4 tokens left out
  std::vector<float> lost_error;  ///< [layers, kv_heads, tokens] of losing this token alone
  bool empty() const { return output_error.empty(); }
};

/// The complete answer of one method at one budget on one run.
struct Decision {
  std::string method;           ///< canonical text
  std::string preset;           ///< the first piece's name
  std::string descriptor_json;  ///< parameters, terms, scope, rules of the method
  std::string keep;             ///< budget as typed
  std::string rounding = "ours";
  std::int64_t budget_slots = 0;  ///< asked, over the model
  bool by_method = false;         ///< the method's paper sets its own size
  bool replayed = true;           ///< decided on a full-cache capture, not in a live run
  bool replay_exact = true;       ///< replay equals the live run (one cut after prefill)
  std::string capture_hash;
  std::string model_name;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int tokens = 0;      ///< tokens covered
  int cut_tokens = 0;  ///< tokens the (last) cut saw
  CacheForm form;
  std::vector<std::string> term_names;
  std::vector<DecisionEvent> events;
  std::vector<LayerDecision> layers;
  DecisionMetrics metrics;

  std::int64_t granted_slots() const;
  std::int64_t kept_slots() const;
};

/// Letter of DESIGN section 3 for one token and head: K P T M E D S.
char fate_letter(const LayerDecision& layer, int kv_head, int token);

/// As fate_letter for all cells at once: [kv_heads, tokens].
std::string fate_letters(const LayerDecision& layer);

/// Name as reports print it, e.g. "observation window".
const char* reason_name(Reason reason);

/// Sentences naming each broken rule of STYLE section 6 (rules 1 to 7); empty if sound.
std::vector<std::string> violations(const Decision& decision);

/// Throws Error{corrupt_file} with the first violation.
void validate(const Decision& decision, const std::string& where);

}  // namespace kvscope
