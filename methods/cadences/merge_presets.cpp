#include "cadences/chunked_merge.h"
#include "cadences/weighers.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

PairMergeRule shared_rule(const Arguments& arguments) {
  PairMergeRule rule;
  rule.clamp = arguments.integer("clamp");
  rule.chain = arguments.text("merger") == "chain";
  return rule;
}

ChunkOptions chunk_options(const Arguments& arguments) {
  const std::string& cut = arguments.text("final_cut");
  return {arguments.text("timing") == "budget", arguments.integer("chunk"),
          arguments.integer("sink"), arguments.integer("cache"),
          cut == "auto" ? -1 : (cut == "true" ? 1 : 0)};
}

/// The parameters of both presets, after those that are the preset's own.
std::vector<ParameterInfo> with_shared(std::vector<ParameterInfo> parameters) {
  parameters.push_back(choice_parameter(
      "timing", "reference|budget",
      "reference: cache=2080, sink=32, chunk=512, no cut after the last chunk. budget (ours): "
      "cache=SLOTS, sink=min(32, SLOTS / 4), chunk=max(32, min(512, SLOTS / 2)), final_cut=true"));
  parameters.push_back(integer_parameter("cache", -1, "-1..", "slots",
                                         "more slots stay at each cut; -1 = as the timing says"));
  parameters.push_back(
      integer_parameter("sink", -1, "-1..", "slots",
                        "more of the sequence's start never merges; -1 = as the timing says"));
  parameters.push_back(
      integer_parameter("chunk", -1, "-1..", "tokens",
                        "the prompt is read, and looks back, in larger steps; -1 = as the timing "
                        "says"));
  parameters.push_back(choice_parameter(
      "final_cut", "auto|true|false",
      "true (ours): one more cut when the prompt has been read, seen by its last chunk"));
  parameters.push_back(choice_parameter(
      "merger", "pairs|chain",
      "what becomes of neighbouring pairs; pairs: the first merges, the rest is dropped, as the "
      "authors' code does; chain (ours): they all become one slot"));
  parameters.push_back(integer_parameter("clamp", 5, "0..", "tokens",
                                         "a merged slot may count for more; 0 = no limit"));
  return parameters;
}

void describe_pairs(PieceInfo& info) {
  info.kind = PieceInfo::Kind::preset;
  info.scope = "layer";
  info.terms = {{"pair_mass", "attention of the chunk's queries on both slots, summed over heads"},
                {"recency", "1 / 512^(pair / 4096): late pairs look cheaper"},
                {"multiplicity", "tokens both slots stand for, summed over KV heads"}};
  info.combine = "pair_mass * recency * multiplicity";
}

const char* const gradient_help =
    "number type of the key gradients; float32: back through the probe as it was computed, as the "
    "authors' code does (theirs in bfloat16); float64 (ours): the probe is computed again in "
    "float64 on the cache as it is stored, which settles weights whose gradients nearly cancel; "
    "several times the look back's time, and the head's weights once more in float64";

KeyGradient gradient_of(const Arguments& arguments) {
  return arguments.text("gradient") == "float64" ? KeyGradient::float64 : KeyGradient::float32;
}

const char* const timing_departures =
    "float32, ties to the lower pair; a probe pass that could change nothing is left out; the last "
    "token of a prompt of 512 n + 1 is read (the authors' driver never feeds it); a loss that is "
    "not a number is an error (theirs then averages keys and values)";

}  // namespace

PieceEntry asymkv_entry() {
  PieceEntry entry;
  entry.info.name = "asymkv";
  entry.info.summary =
      "reads the prompt in chunks and merges neighbouring slots: keys by squared loss gradients, "
      "values summed; drops what overlapping pairs leave over; live runs only";
  entry.info.paper = "Cui and Xu 2025, arXiv:2506.05410; code the-scale-lab/Asymkv 6e844dc";
  entry.info.departures = timing_departures;
  describe_pairs(entry.info);
  entry.info.parameters =
      with_shared({choice_parameter("gradient", "float32|float64", gradient_help)});
  entry.build = [](const Arguments& arguments, Parts& parts) {
    PairMergeRule rule = shared_rule(arguments);
    rule.ranking = {PairRanking::Count::per_pair, false};
    parts.cadence = make_chunked_merge(chunk_options(arguments), rule,
                                       make_squared_gradients(gradient_of(arguments)));
    parts.form = {Frame::pre_rope, CacheForm::Positions::multiplicity, CacheForm::Values::sum};
  };
  entry.closed = true;
  return entry;
}

PieceEntry kvslimmer_entry() {
  PieceEntry entry;
  entry.info.name = "kvslimmer";
  entry.info.summary =
      "asymkv with keys weighed by the curvature of the attention output; variant code is the "
      "released code, paper the published formula, oracle the formula with true gradients; live "
      "runs only";
  entry.info.paper = "Liu et al. 2026, arXiv:2603.00907; code lianjunl13-sudo/KVSlimmer eca7a68";
  entry.info.departures =
      std::string(timing_departures) +
      "; paper and oracle: aggregation over queries and heads is ours, and the pair ranking is "
      "taken to be AsymKV's";
  describe_pairs(entry.info);
  entry.info.parameters = with_shared(
      {choice_parameter("variant", "code|paper|oracle", "how the keys of a pair are weighed"),
       choice_parameter(
           "lsum", "auto|per_pair|constant",
           "multiplicity factor of a pair's score; auto: constant for code (one number "
           "per layer, without effect), per_pair else"),
       choice_parameter("proxy_value", "sum|mean",
                        "code: values as they are stored, which counts multiplicities twice, or "
                        "their means"),
       boolean_parameter("history", true, "code: curvature is a running mean over chunks"),
       choice_parameter("agg", "window|per_query",
                        "paper: attention averaged over queries and heads first, or norms "
                        "averaged over them"),
       choice_parameter("gradient", "float32|float64", std::string("oracle: ") + gradient_help),
       boolean_parameter("safe", false,
                         "true: key weights clamped to [0, 1], one half each where they cancel")});
  entry.build = [](const Arguments& arguments, Parts& parts) {
    using Variant = CurvatureOptions::Variant;
    const std::string& name = arguments.text("variant");
    const Variant variant = name == "code"    ? Variant::code
                            : name == "paper" ? Variant::paper
                                              : Variant::oracle;
    const std::string& lsum = arguments.text("lsum");
    const bool constant = lsum == "constant" || (lsum == "auto" && variant == Variant::code);
    PairMergeRule rule = shared_rule(arguments);
    rule.ranking = {constant ? PairRanking::Count::constant : PairRanking::Count::per_pair, true};
    parts.cadence = make_chunked_merge(
        chunk_options(arguments), rule,
        make_curvature({variant, arguments.text("proxy_value") == "mean",
                        arguments.boolean("history"), arguments.text("agg") == "per_query",
                        gradient_of(arguments), arguments.boolean("safe")}));
    parts.form = {Frame::pre_rope, CacheForm::Positions::multiplicity, CacheForm::Values::sum};
  };
  entry.closed = true;
  return entry;
}

}  // namespace kvscope::detail
