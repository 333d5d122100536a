#include "datasets.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "group_planes.h"
#include "hook_datasets.h"
#include "kvscope/capture/request.h"
#include "kvscope/core/error.h"
#include "logit_rows.h"
#include "map_reductions.h"
#include "sampled_sum.h"
#include "segments.h"
#include "snapshots.h"

namespace kvscope {
namespace {

/// One layer's plane in chunks of at most 512 KiB that cover its heads evenly: short prompts get
/// all heads in one, long ones eight heads of 16,384 tokens.
std::vector<std::int64_t> plane_chunk(std::int64_t heads, std::int64_t tokens) {
  constexpr std::int64_t most_tokens = 16384;
  constexpr std::int64_t most_values = 8 * most_tokens;
  const std::int64_t width = std::clamp<std::int64_t>(tokens, 1, most_tokens);
  const std::int64_t chunks = (heads * width + most_values - 1) / most_values;
  return {1, (heads + chunks - 1) / std::max<std::int64_t>(chunks, 1), most_tokens};
}

/// Collects the specs of one capture; a method for each kind of dataset.
class SpecList {
 public:
  SpecList(const CaptureRequest& request, const ModelShape& shape, int prompt_tokens,
           ElementType cache_type)
      : request_(request), shape_(shape), tokens_(prompt_tokens), cache_type_(cache_type) {
    const CaptureChoice choice = choose(request, shape, prompt_tokens);
    layers_ = std::ssize(choice.layers);
    query_heads_ = std::ssize(choice.query_heads);
    kv_heads_ = std::ssize(choice.kv_heads);
    steps_ = std::ssize(choice.steps.decode);
  }

  std::vector<DatasetSpec> build() {
    norms();
    windows();
    rows();
    if (request_.profile != Profile::window) {
      columns();
    }
    sampled();
    plane("self_check", {layers_, query_heads_}, "1",
          "residual of the built-in check: attention sums against the number of queries",
          "|sum_j attention_sum_j - queries| / queries", {"layer", "query_head"})
        .queries =
        request_.profile == Profile::window ? "the observation window" : "all prompt queries";
    maps();
    for (int row = 0; row < layers_; ++row) {
      tensors(request_.layers.empty() ? row : request_.layers[static_cast<std::size_t>(row)]);
    }
    steps();
    return std::move(specs_);
  }

 private:
  DatasetSpec& plane(const std::string& name, std::vector<std::int64_t> extent, const char* units,
                     const std::string& long_name, const char* formula,
                     std::vector<std::string> labels) {
    DatasetSpec spec;
    spec.path = "reduce/" + name;
    spec.shape = std::move(extent);
    if (spec.shape.size() == 3) {
      spec.chunk = plane_chunk(spec.shape[1], spec.shape[2]);
    }
    spec.units = units;
    spec.long_name = long_name;
    spec.formula = formula;
    spec.labels = std::move(labels);
    spec.group_reduce = "none";
    spec.kernel = "kvscope attention_stats";
    specs_.push_back(spec);
    return specs_.back();
  }

  /// A plane per query head over prompt tokens.
  DatasetSpec& query_plane(const std::string& name, const char* units, const std::string& long_name,
                           const char* formula, const std::string& queries) {
    DatasetSpec& spec = plane(name, {layers_, query_heads_, tokens_}, units, long_name, formula,
                              {"layer", "query_head", "token"});
    spec.queries = queries;
    return spec;
  }

  bool stores_tensors() const {
    return request_.profile == Profile::qkv || request_.profile == Profile::full;
  }

  void norms() {
    const std::vector<std::string> labels = {"layer", "kv_head", "token"};
    const std::vector<std::int64_t> extent = {layers_, kv_heads_, tokens_};
    plane("key_norm", extent, "1", "L2 norm of the key", "sqrt(sum_c k_jc^2)", labels).queries =
        "none";
    plane("value_norm", extent, "1", "L2 norm of the value", "sqrt(sum_c v_jc^2)", labels).queries =
        "none";
    query_plane("projected_value_norm", "1", "L2 norm of the value through the output projection",
                "||v_j W_O^h||_2", "none");
    if (stores_tensors()) {
      plane("value_norm_l1", extent, "1", "L1 norm of the value", "sum_c |v_jc|", labels).queries =
          "none";
      query_plane("projected_value_norm_l1", "1",
                  "L1 norm of the value through the output projection", "||v_j W_O^h||_1", "none");
    }
  }

  void window_planes(const std::string& folder, int window) {
    const std::string population = fmt::format("last {} prompt queries", std::min(window, tokens_));
    query_plane(folder + "window_sum", "attention",
                "attention received from the observation window", "sum_{i in W} p_ij", population);
    query_plane(folder + "window_sum_squares", "attention^2",
                "squared attention received from the observation window", "sum_{i in W} p_ij^2",
                population);
    query_plane(folder + "window_max", "attention",
                "largest attention received from the observation window", "max_{i in W} p_ij",
                population);
  }

  void windows() {
    for (const int window : request_.windows) {
      window_planes(detail::window_folder(window), window);
    }
    if (!request_.windows.empty()) {
      window_planes("", request_.windows.back());
    }
    query_plane("last_query", "attention", "attention of the newest query", "p_{n-1,j}",
                "the last prompt query");
  }

  void rows() {
    DatasetSpec& lse = query_plane("lse", "nats", "log-sum-exp of the query's logits",
                                   "log sum_j exp(s_ij)", "all prompt queries");
    lse.labels = {"layer", "query_head", "query"};
    if (request_.profile != Profile::window) {
      DatasetSpec& entropy = query_plane("entropy", "nats", "entropy of the query's attention",
                                         "-sum_j p_ij log p_ij", "all prompt queries");
      entropy.labels = {"layer", "query_head", "query"};
    }
    if (request_.head_output_norm) {
      query_plane("head_output_norm", "1", "L2 norm of the head's output through W_O",
                  "||z_i W_O^h||_2", "all prompt queries")
          .labels = {"layer", "query_head", "query"};
    }
  }

  void columns() {
    const std::int64_t planned = tokens_ + request_.new_tokens;
    query_plane("attention_sum", "attention", "attention received, summed over queries",
                "sum_i p_ij", "all prompt queries")
        .shape[2] = planned;
    query_plane("attention_max", "attention", "largest attention received", "max_i p_ij",
                "all prompt queries")
        .shape[2] = planned;
    query_plane("attention_sum_squares", "attention^2", "squared attention received, summed",
                "sum_i p_ij^2", "all prompt queries")
        .shape[2] = planned;
  }

  void sampled() {
    if (request_.sample_queries > 0) {
      const detail::QuerySample sample = detail::sample_of(request_, tokens_);
      query_plane("attention_sum_sampled", "attention",
                  "attention received, summed over sampled queries",
                  "sum_{i in W} p_ij; times `stride` it estimates attention_sum",
                  fmt::format("W: query {} and every {}th after it, {} of {} prompt queries",
                              sample.first, sample.stride, sample.count, tokens_))
          .numbers = {{"stride", sample.stride}, {"offset", sample.first}};
    }
  }

  /// What is kept of whole maps.
  void maps() {
    if (request_.top_keys > 0) {
      const std::vector<std::int64_t> extent = {layers_, query_heads_, tokens_, request_.top_keys};
      const std::vector<std::string> labels = {"layer", "query_head", "query", "rank"};
      DatasetSpec& keys = plane("top_key", extent, "token", "most attended tokens, descending",
                                "argsort_j -p_ij, equal: lower j first", labels);
      keys.type = ElementType::i4;
      keys.chunk = {1, 1, 2048, request_.top_keys};
      keys.queries = "all prompt queries";
      DatasetSpec& values =
          plane("top_probability", extent, "attention", "attention of the most attended tokens",
                "p_ij of top_key", labels);
      values.type = ElementType::f2;
      values.chunk = {1, 1, 2048, request_.top_keys};
      values.queries = "all prompt queries";
    }
    if (request_.received_by_segment) {
      DatasetSpec& received = plane(
          "received_by_segment", {layers_, query_heads_, tokens_, detail::segment_columns},
          "attention",
          "attention given to template, context, question, generated tokens, and to the first 4",
          "sum_{j in segment} p_ij", {"layer", "query_head", "query", "segment"});
      received.chunk = {1, 1, 16384, detail::segment_columns};
      received.queries = "all prompt queries";
    }
    for (const int side : detail::MapReductions::levels(request_.pooled_block, tokens_)) {
      const std::int64_t blocks = (tokens_ + side - 1) / side;
      for (const bool sum : {true, false}) {
        DatasetSpec& pooled = plane(fmt::format("pooled/{}/{}", side, sum ? "sum" : "max"),
                                    {layers_, query_heads_, blocks, blocks}, "attention",
                                    fmt::format("{} of the attention map over blocks of {} x {}",
                                                sum ? "sums" : "maxima", side, side),
                                    sum ? "sum_{i in I, j in J} p_ij" : "max_{i in I, j in J} p_ij",
                                    {"layer", "query_head", "query_block", "token_block"});
        pooled.type = ElementType::f2;
        pooled.chunk = {1, 1, 256, 256};
        pooled.queries = "all prompt queries";
      }
    }
  }

  DatasetSpec& tensor(int layer, const char* name, std::vector<std::int64_t> extent,
                      ElementType type, const char* long_name, const char* formula,
                      std::vector<std::string> labels) {
    DatasetSpec spec;
    spec.path = layer_dataset_name(layer, name);
    spec.type = type;
    spec.shape = std::move(extent);
    spec.chunk = {1, 2048, spec.shape.back()};
    spec.units = "1";
    spec.long_name = long_name;
    spec.formula = formula;
    spec.queries = "none";
    spec.group_reduce = "none";
    spec.kernel = "kvscope runtime";
    spec.labels = std::move(labels);
    specs_.push_back(spec);
    return specs_.back();
  }

  static std::string layer_dataset_name(int layer, const char* name) {
    return fmt::format("layers/{:03}/{}", layer, name);
  }

  void tensors(int layer) {
    const std::int64_t dim = shape_.head_dim;
    if (request_.attention_maps) {
      DatasetSpec& map =
          tensor(layer, "attention", {query_heads_, tokens_, tokens_}, ElementType::f2,
                 "attention, rows are queries", "p_ij = exp(s_ij - lse_i), 0 where j > i",
                 {"query_head", "query", "token"});
      map.units = "attention";
      map.queries = "all prompt queries";
      map.kernel = "kvscope attention_rectangle";
    }
    if (!stores_tensors()) {
      return;
    }
    const std::vector<std::string> kv_labels = {"kv_head", "token", "channel"};
    const std::vector<std::int64_t> kv_extent = {kv_heads_, tokens_, dim};
    tensor(layer, "keys", kv_extent, cache_type_, "keys after RoPE", "k_j = RoPE_j(W_K x_j)",
           kv_labels);
    tensor(layer, "keys_pre_rope", kv_extent, cache_type_, "keys before RoPE", "W_K x_j",
           kv_labels);
    tensor(layer, "values", kv_extent, cache_type_, "values", "v_j = W_V x_j", kv_labels);
    const std::int64_t queries = request_.profile == Profile::full
                                     ? tokens_
                                     : std::min<std::int64_t>(tokens_, request_.stored_queries);
    DatasetSpec& stored = tensor(layer, "queries", {query_heads_, queries, dim}, cache_type_,
                                 "queries after RoPE, not scaled", "q_i = RoPE_i(W_Q x_i)",
                                 {"query_head", "query", "channel"});
    stored.queries =
        queries == tokens_ ? "all prompt queries" : fmt::format("last {} prompt queries", queries);
    stored.numbers = {{"first_query", tokens_ - queries}};
    tensor(layer, "output_factor", {query_heads_, dim, dim}, ElementType::f4,
           "factor of the output projection that keeps norms",
           "L_h of W_O^h = L_h U_h, U_h U_h^T = 1", {"query_head", "channel", "channel"});
  }

  void step(const char* name, std::vector<std::int64_t> extent, ElementType type, const char* units,
            const char* long_name, const char* formula, std::vector<std::string> labels) {
    DatasetSpec spec;
    spec.path = std::string("steps/") + name;
    spec.type = type;
    spec.shape = std::move(extent);
    spec.shape.insert(spec.shape.begin(), steps_);
    spec.chunk = spec.shape;
    spec.chunk[0] = spec.shape.size() == 1 ? 4096 : spec.shape.size() == 2 ? 64 : 32;
    if (spec.shape.size() == 4) {
      spec.chunk = {8, 1, spec.shape[2], spec.shape[3]};
    }
    spec.chunk[0] = std::min<std::int64_t>(spec.chunk[0], std::max<std::int64_t>(steps_, 1));
    spec.units = units;
    spec.long_name = long_name;
    spec.formula = formula;
    spec.queries = "the step's query";
    spec.group_reduce = "none";
    spec.kernel = "kvscope attention_stats";
    spec.labels = std::move(labels);
    spec.labels.insert(spec.labels.begin(), "step");
    specs_.push_back(spec);
  }

  void steps() {
    const std::int64_t dim = shape_.head_dim;
    step("token", {}, ElementType::i4, "token id", "token fed at this step", "x_s", {});
    step("time_ns", {}, ElementType::i8, "ns", "time since the first step, at its end", "t_s", {});
    step("stall_ns", {}, ElementType::i8, "ns", "time this step waited for the writer",
         "sum of waits", {});
    const std::vector<std::string> heads = {"layer", "query_head"};
    const std::vector<std::int64_t> head_extent = {layers_, query_heads_};
    step("entropy", head_extent, ElementType::f4, "nats", "entropy of the step's attention",
         "-sum_j p_j log p_j", heads);
    step("lse", head_extent, ElementType::f4, "nats", "log-sum-exp of the step's logits",
         "log sum_j exp(s_j)", heads);
    step("sink_mass", head_extent, ElementType::f4, "attention", "attention on the first 4 tokens",
         "sum_{j < 4} p_j", heads);
    if (request_.head_output_norm) {
      step("head_output_norm", head_extent, ElementType::f4, "1",
           "L2 norm of the head's output through W_O", "||z W_O^h||_2", heads);
    }
    if (request_.evicted_mass) {
      step("evicted_mass", head_extent, ElementType::f4, "attention",
           "attention that tokens without a slot would have taken, had their keys stayed",
           "sum_{j lost} exp(s_j) / sum_{j lost or slot} exp(s_j)", heads);
    }
    if (request_.received_by_segment) {
      step("received_by_segment", {layers_, query_heads_, detail::segment_columns}, ElementType::f4,
           "attention",
           "attention given to template, context, question, generated tokens, and to the first 4",
           "sum_{j in segment} p_j", {"layer", "query_head", "segment"});
    }
    if (request_.attention_row) {
      const std::int64_t planned = tokens_ + request_.new_tokens;
      step("attention_row", {layers_, query_heads_, planned}, ElementType::f2, "attention",
           "attention to every token seen, 0 where a token holds no slot", "p_j",
           {"layer", "query_head", "token"});
      specs_.back().chunk = {1, 1, 8, 16384};
    }
    const std::vector<std::string> ranks = {"layer", "query_head", "rank"};
    const std::vector<std::int64_t> top = {layers_, query_heads_, detail::decode_top_keys};
    step("top_key", top, ElementType::i4, "token", "most attended tokens, descending",
         "argsort_j -p_j, equal: lower j first", ranks);
    step("top_probability", top, ElementType::f2, "attention",
         "attention of the most attended tokens", "p_j of top_key", ranks);
    step("cache_slots", {layers_, kv_heads_}, ElementType::i4, "slots", "live slots",
         "slots of the KV head", {"layer", "kv_head"});
    step("logit_token", {detail::decode_top_logits}, ElementType::i4, "token id",
         "most probable next tokens, descending", "argsort -logits", {"rank"});
    step("logit_logprob", {detail::decode_top_logits}, ElementType::f4, "nats",
         "log probability of the most probable next tokens", "log softmax(logits)", {"rank"});
    if (stores_tensors()) {
      step("queries", {layers_, query_heads_, dim}, cache_type_, "1",
           "queries after RoPE, not scaled", "RoPE(W_Q x)", {"layer", "query_head", "channel"});
      step("keys", {layers_, kv_heads_, dim}, cache_type_, "1", "keys after RoPE", "RoPE(W_K x)",
           {"layer", "kv_head", "channel"});
      step("values", {layers_, kv_heads_, dim}, cache_type_, "1", "values", "W_V x",
           {"layer", "kv_head", "channel"});
    }
  }

  const CaptureRequest& request_;
  const ModelShape& shape_;
  int tokens_;
  ElementType cache_type_;
  std::int64_t layers_ = 0;
  std::int64_t query_heads_ = 0;
  std::int64_t kv_heads_ = 0;
  std::int64_t steps_ = 0;
  std::vector<DatasetSpec> specs_;
};

}  // namespace

std::string detail::window_folder(int window) {
  return fmt::format("window_{}/", window);
}

std::vector<DatasetSpec> capture_datasets(const CaptureRequest& request, const ModelShape& shape,
                                          int prompt_tokens, ElementType cache_type) {
  KVSCOPE_CHECK(prompt_tokens > 0, ErrorCode::usage, "the prompt is empty", "capture");
  KVSCOPE_CHECK(std::is_sorted(request.windows.begin(), request.windows.end()) &&
                    (request.windows.empty() || request.windows.front() > 0),
                ErrorCode::usage, "observation windows must be positive and ascend", "--window");
  std::vector<DatasetSpec> specs = SpecList(request, shape, prompt_tokens, cache_type).build();
  const auto kv_heads = std::ssize(choose(request, shape, prompt_tokens).kv_heads);
  for (DatasetSpec& spec : detail::group_datasets(specs, request, kv_heads)) {
    specs.push_back(std::move(spec));
  }
  for (const auto& more :
       {detail::hook_datasets, detail::snapshot_datasets, detail::logit_datasets}) {
    for (DatasetSpec& spec : more(request, shape, prompt_tokens, cache_type)) {
      specs.push_back(std::move(spec));
    }
  }
  return specs;
}

}  // namespace kvscope
