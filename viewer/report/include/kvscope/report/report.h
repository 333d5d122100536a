#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kvscope/core/capture_index.h"
#include "kvscope/core/decision.h"
#include "kvscope/core/tokens.h"
#include "kvscope/scene/agreement.h"
#include "kvscope/scene/answers.h"
#include "kvscope/scene/checks.h"
#include "kvscope/scene/fate_counts.h"
#include "kvscope/scene/token_class.h"

namespace kvscope {

/// What one method's run answered, as `kvscope generate` found it.
using ReportAnswer = Answer;

/// Everything a report is made from.
struct ReportInput {
  CaptureIndex capture;
  TokenTable tokens;
  std::vector<Decision> decisions;
  std::vector<std::string> find;           ///< texts whose tokens are followed
  std::optional<std::string> full_answer;  ///< of the full cache
  std::vector<ReportAnswer> answers;       ///< any order; matched by method and budget
  int lost_tokens = 8;                     ///< most costly ones listed per method
  bool any_memory = false;  ///< compare methods whose mean caches differ by more than 5 % too
};

/// A lost token and what losing it cost.
struct LostToken {
  int token = 0;
  double error = 0;  ///< sum of lost_error over layers and KV heads
  int layer = -1;    ///< true index of the place that lost most
  int kv_head = -1;
  double worst_error = 0;  ///< there
  char fate = 'E';         ///< there
  int lost_heads = 0;      ///< places in which it holds no slot
  int heads = 0;           ///< layers * kv_heads
  std::string why;         ///< in sentences, at the worst place
  std::string before;      ///< text around it, printable
  std::string text;
  std::string after;
};

/// One layer of one method. Means are over query heads; NaN without metrics.
struct ReportLayer {
  int layer = 0;  ///< true index
  FateCounts fates;
  std::vector<int> granted;  ///< [kv_heads]
  std::vector<int> held;     ///< [kv_heads] slots held when the run ended
  double output_error = std::numeric_limits<double>::quiet_NaN();
  double retained_mass = std::numeric_limits<double>::quiet_NaN();
  double retained_mass_no_sinks = std::numeric_limits<double>::quiet_NaN();
};

/// Metrics of a decision over the model; NaN without metrics.
struct ReportCost {
  bool present = false;
  std::string queries;  ///< population, in words
  int query_count = 0;
  bool seen_by_method = false;  ///< the method looked at these very queries
  double output_error_mean = std::numeric_limits<double>::quiet_NaN();
  double output_error_max = std::numeric_limits<double>::quiet_NaN();
  int worst_layer = -1;  ///< true index
  int worst_query_head = -1;
  double retained_mass = std::numeric_limits<double>::quiet_NaN();
  double retained_mass_no_sinks = std::numeric_limits<double>::quiet_NaN();
};

/// One decision, counted.
struct ReportMethod {
  std::string method;
  std::string preset;
  std::string keep;
  std::string rounding;
  std::string origin;  ///< "live", "replayed, exact" or "replayed, approximate"
  bool by_method = false;
  bool replayed = true;
  bool replay_exact = true;
  int tokens = 0;
  int cut_tokens = 0;
  int cuts = 0;
  std::int64_t asked_slots = 0;
  std::int64_t granted_slots = 0;
  std::int64_t held_slots = 0;  ///< of all tokens covered, those after the last cut included
  std::int64_t held_bytes = 0;
  std::int64_t full_bytes = 0;   ///< of the whole cache
  std::int64_t first_bytes = 0;  ///< of the cache just before the first cut
  std::int64_t peak_bytes = 0;   ///< most from the first cut on
  std::int64_t mean_bytes = 0;   ///< mean over the tokens from the first cut on
  int least_granted_layer = 0;   ///< slots granted to a layer: fewest and most
  int most_granted_layer = 0;
  FateTable fates;
  double gone_share = 0;  ///< of the cells: evicted or dropped, so that no slot holds their content
  std::array<ClassShare, token_classes> classes{};
  ReportCost cost;
  std::vector<ReportLayer> layers;
  std::vector<FateCounts> token_fates;  ///< [tokens] over layers and KV heads
  std::vector<double> token_error;      ///< [tokens] sum of lost_error; empty without metrics
  /// [layers, kv_heads] group means of output_error, retained_mass, retained_mass_no_sinks.
  std::vector<double> head_error;
  std::vector<double> head_mass;
  std::vector<double> head_mass_no_sinks;
  std::string layer_letters;    ///< [layers, kv_heads, tokens] fate letters
  std::vector<LostToken> lost;  ///< most costly first; empty without metrics
  std::vector<Finding> checks;
  std::optional<ReportAnswer> answer;
  std::optional<bool> answer_changed;  ///< set when both answers are known
};

/// Two methods compared by what holds a slot.
struct ReportPair {
  int a = 0;  ///< index into methods
  int b = 0;
  Agreement agreement;
};

/// Where one token of a searched text went, in one method.
struct FoundToken {
  struct Loss {
    int layer = 0;              ///< true index
    std::vector<int> kv_heads;  ///< in which it holds no slot
    std::string letters;        ///< its fate there, one letter per head
  };
  int token = 0;
  std::string text;  ///< printable
  int held = 0;      ///< places in which it holds a slot
  int heads = 0;     ///< layers * kv_heads
  std::vector<Loss> lost;
};

/// How one method treated a searched text.
struct FoundFate {
  int method = 0;       ///< index into methods
  std::string verdict;  ///< "kept whole", "kept in part"; "lost" or "merged away": some token holds
                        ///< no slot anywhere
  int whole_heads = 0;  ///< places that hold every token of it
  int none_heads = 0;   ///< places that hold none
  int heads = 0;
  std::vector<FoundToken> tokens;
};

/// One --find text.
struct FoundText {
  std::string needle;
  bool found = false;
  int occurrences = 0;
  int first = 0;  ///< tokens [first, last) of the first occurrence
  int last = 0;
  std::string before;  ///< printable
  std::string text;
  std::string after;
  std::vector<FoundFate> fates;
};

struct ReportToken {
  std::string text;  ///< printable
  Segment segment = Segment::context;
};

/// Every number of a report; the formats only write it down.
struct Report {
  CaptureIndex capture;
  std::int64_t slot_bytes = 0;  ///< key and value of one slot of one KV head
  std::vector<ReportToken> tokens;
  std::vector<ReportMethod> methods;
  std::vector<ReportPair> pairs;
  bool any_memory = false;  ///< pairs are shown whatever their memory
  std::string memory;       ///< a sentence: whether the methods' mean caches match
  std::vector<FoundText> found;
  std::optional<std::string> full_answer;
};

/// Counts, compares and checks. Throws Error{usage} if a decision was not made on this capture.
Report build_report(const ReportInput& input);

}  // namespace kvscope
