#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/capture/selection.h"
#include "kvscope/core/capture_index.h"
#include "kvscope/core/hook_point.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope {

/// How the query heads of a GQA group become one number of their KV head.
enum class GroupReduce { mean, sum, max };
const char* group_reduce_name(GroupReduce reduce);
/// "mean,max" as a list, each once. Throws Error{usage} naming `flag` for any other name.
std::vector<GroupReduce> parse_group_reduces(const std::string& text, const std::string& flag);

/// What is to be written down of a run.
struct CaptureRequest {
  Profile profile = Profile::window;
  std::vector<int> windows = {32, 64};  ///< observation windows, ascending
  std::vector<int> layers;              ///< true indices; empty = all
  std::string query_heads = "all";      ///< whose numbers are stored, as `select_numbers` takes it
  std::string kv_heads = "all";         ///< likewise
  std::string steps = "all";            ///< as `select_steps` takes it: rows of /steps, hook points
  std::vector<HookPoint> hooks;         ///< points stored besides what the profile stores
  std::string hook_tokens = "all";      ///< prompt tokens whose hook points are stored
  int stored_queries = 1024;            ///< newest prompt queries kept by `qkv`
  int new_tokens = 0;                   ///< planned decode steps
  bool head_output_norm = false;        ///< of each head's share of the attention output
  bool received_by_segment = false;     ///< attention each query gives to segments and sinks
  bool attention_row = false;           ///< each stored step's attention to every token
  bool evicted_mass = false;            ///< what a step would have given to tokens without a slot
  std::string snapshots = "none";       ///< steps of snapshots, as `select_numbers` takes them
  bool attention_maps = false;          ///< whole maps [query_heads, n, n] of the chosen layers
  bool logit_maps = false;              ///< logits of the `hook_tokens`' queries, and of steps
  bool keys_gradient = false;           ///< d loss / d pre-RoPE keys: one more pass, and back
  std::vector<GroupReduce> group_reduces;  ///< planes of attention stored by KV head, too
  int sample_queries = 0;  ///< stride of the queries of attention_sum_sampled; 0 = none
  std::uint64_t seed = 0;  ///< of the first of them
  int top_keys = 0;        ///< most attended keys kept of every prompt query; 0 = none
  int pooled_block = 0;    ///< side of the finest block of pooled maps, in tokens; 0 = none
  bool compress = false;
  bool force = false;
  bool never_drop = false;  ///< wait for the disk, however long, rather than thin out series
  bool drop_bulk = false;   ///< leave tensors out rather than wait for the disk
  bool live = false;        ///< others may follow the file while it grows; it outlives a killed run
};

/// What the selections of a request come to on a run.
struct CaptureChoice {
  std::vector<int> layers;       ///< true indices
  std::vector<int> query_heads;  ///< likewise
  std::vector<int> kv_heads;
  StepChoice steps;
  std::vector<int> snapshots;    ///< steps, 0 = after the prompt
  std::vector<int> hook_tokens;  ///< empty without hook points, or if they do not see the prompt
};
/// Throws Error{usage} naming the flag of a selection that is not possible, and for hook points
/// that belong to a profile which was not asked for.
CaptureChoice choose(const CaptureRequest& request, const ModelShape& shape, int prompt_tokens);

/// What a request costs, before the run.
struct CapturePrice {
  std::int64_t disk_bytes = 0;
  std::int64_t memory_bytes = 0;  ///< beyond weights and cache
  double extra_flop = 0;          ///< statistics passes
  double extra_passes = 0;        ///< over the whole prompt, in units of one forward
};
/// Without a profile a capture is `qkv` below this, else `window`.
inline constexpr std::int64_t default_profile_limit = std::int64_t{1} << 30;
/// A capture above this is only made when confirmed.
inline constexpr std::int64_t unconfirmed_limit = std::int64_t{32} << 30;
/// How keys and values of a run in `dtype` ("float32", "bfloat16") are stored.
ElementType cache_element(const std::string& dtype);
CapturePrice price_capture(const CaptureRequest& request, const ModelShape& shape,
                           int prompt_tokens, ElementType cache_type);

/// Every dataset of the request, ready for CaptureWriter.
std::vector<DatasetSpec> capture_datasets(const CaptureRequest& request, const ModelShape& shape,
                                          int prompt_tokens, ElementType cache_type);

/// The request as JSON, stored verbatim in the file.
std::string request_json(const CaptureRequest& request);

}  // namespace kvscope
