#include "capture_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <utility>

#include "console.h"
#include "kvscope/core/error.h"

namespace kvscope::cli {
namespace {

void read_hooks(RequestOptions& options) {
  std::vector<HookPoint>& hooks = options.request.hooks;
  std::stringstream items(options.hooks);
  for (std::string name; std::getline(items, name, ',');) {
    if (name == "attention") {
      options.request.attention_maps = true;
    } else if (name == "logits_attention") {
      options.request.logit_maps = true;
    } else if (name == "keys_gradient") {
      options.request.keys_gradient = true;
    } else {
      hooks.push_back(parse_hook(name));
    }
  }
  std::sort(hooks.begin(), hooks.end());
  hooks.erase(std::unique(hooks.begin(), hooks.end()), hooks.end());
}

void read_reductions(RequestOptions& options) {
  CaptureRequest& request = options.request;
  const std::array<std::pair<std::string, bool*>, 4> known = {
      {{"head_output_norm", &request.head_output_norm},
       {"received_by_segment", &request.received_by_segment},
       {"attention_row", &request.attention_row},
       {"evicted_mass", &request.evicted_mass}}};
  std::stringstream items(options.reductions);
  for (std::string name; std::getline(items, name, ',');) {
    const auto found = std::find_if(known.begin(), known.end(),
                                    [&](const auto& one) { return one.first == name; });
    KVSCOPE_CHECK(found != known.end(), ErrorCode::usage, fmt::format("no reduction '{}'", name),
                  "--reductions",
                  "choose from head_output_norm, received_by_segment, attention_row, evicted_mass; "
                  "others come with profiles, --top-keys, --pooled and --sample-queries");
    *found->second = true;
  }
}

}  // namespace

void resolve_request(RequestOptions& options, const ModelShape& shape, const TokenTable& prompt) {
  CaptureRequest& request = options.request;
  request.windows = parse_list(options.windows, "--window", 1 << 20);
  request.layers = select_numbers(options.layers, shape.layers, "--layers");
  request.hook_tokens = with_segments(options.hook_tokens, prompt, "--hook-tokens");
  read_hooks(options);
  read_reductions(options);
  request.group_reduces = parse_group_reduces(options.group_reduces, "--group-reduce");
}

void add_request(CLI::App& command, RequestOptions& options) {
  CaptureRequest& request = options.request;
  command.add_option("--profile", options.profile,
                     "window | scores | qkv | full; default: qkv if under 1 GiB, else window");
  command.add_option("--window", options.windows, "Observation windows")->capture_default_str();
  command
      .add_option("--layers", options.layers,
                  "Layers to record: all, 0-3,7, every:4 (0, 4, 8...) or last:2")
      ->capture_default_str();
  command.add_option("--query-heads", request.query_heads, "Query heads to store, likewise")
      ->capture_default_str();
  command.add_option("--kv-heads", request.kv_heads, "KV heads to store, likewise")
      ->capture_default_str();
  command
      .add_option("--steps", request.steps,
                  "Steps to store, likewise, of the decode series and of hook points; 0 is the "
                  "prompt. Also prefill, decode or none")
      ->capture_default_str();
  command.add_option("--hooks", options.hooks,
                     "Hook points to store besides, by name: residual_in,attention_output,... "
                     "(listed below)");
  command
      .add_option("--hook-tokens", options.hook_tokens,
                  "Prompt tokens whose hook points are stored: as above, or context, question, "
                  "template")
      ->capture_default_str();
  command.add_option("--reductions", options.reductions,
                     "Reductions to store besides: head_output_norm, received_by_segment (of the "
                     "prompt and of steps), attention_row, evicted_mass (of steps)");
  command
      .add_option("--sample-queries", request.sample_queries,
                  "Also store attention_sum_sampled: attention received from every K-th prompt "
                  "query, for 1/K of the work of attention_sum; --seed draws the first one")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command.add_option("--group-reduce", options.group_reduces,
                     "Also store planes of attention by KV head, as mean, sum or max over the "
                     "query heads of each group (a list makes one set each): "
                     "/reduce/group_mean/NAME");
  command
      .add_option("--snapshots", request.snapshots,
                  "Steps at which slots, attention sums and, by profile, keys and values of the "
                  "whole cache are stored: none, or all, 0,8, every:16, last:1; 0 is the prompt")
      ->capture_default_str();
  command.add_option("--new-tokens", request.new_tokens, "Decode steps to take")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  add_compute(command, options.compute);
  command.add_flag("--attention-maps", request.attention_maps,
                   "Also store whole attention maps (priced first); --hooks attention is the same");
  command
      .add_option("--top-keys", request.top_keys,
                  "Keep the K most attended tokens of every prompt query")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command
      .add_option("--pooled", request.pooled_block,
                  "Keep sums and maxima of the maps over blocks of B x B tokens, 2B x 2B, ...")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--queries", request.stored_queries,
                  "Newest prompt queries that profile qkv stores")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command.add_flag("--live", request.live,
                   "Let others follow the file while it grows; it survives a killed run");
  command.add_flag("--never-drop", request.never_drop,
                   "Wait for a slow disk rather than thin out the numbers of decode steps");
  command.add_flag("--drop-bulk", request.drop_bulk,
                   "Leave queries, keys, values and maps out rather than wait for a slow disk");
  command.add_flag("--compress", request.compress, "gzip the planes");
  command.add_flag("--force", request.force, "Overwrite the output");
  command.add_option("-o,--output", options.output, "NAME.capture.h5")->required();
}

}  // namespace kvscope::cli
