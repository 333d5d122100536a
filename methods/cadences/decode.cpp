#include "cadences/decode.h"

#include "registry/entry.h"

namespace kvscope::detail {
namespace {

class Decode : public Cadence {
 public:
  explicit Decode(const DecodeOptions& options) : options_(options) {}
  std::unique_ptr<Compressor> start(ModelRun& run, const Method& method, const Budget& budget,
                                    const DecideOptions& decide) const override {
    return start_decode(run, method, budget, decide, options_);
  }
  bool decides_once() const override { return true; }

 private:
  DecodeOptions options_;
};

}  // namespace

bool is_due(const DecodeOptions& options, const DecodeState& state) {
  if (state.slots <= state.budget) {
    return false;
  }
  const int counted = state.slots - (options.count_prompt ? 0 : state.prompt_tokens);
  switch (options.trigger) {
    case DecodeOptions::Trigger::slack:
      return counted >= state.budget + options.every;
    case DecodeOptions::Trigger::strict:
      return counted >= state.budget && state.tokens_seen % options.every == 0;
    case DecodeOptions::Trigger::interval:
      return state.steps >= options.every;
    case DecodeOptions::Trigger::since_cut:
      return state.since_cut >= options.every;
  }
  return false;
}

std::vector<ParameterInfo> decode_parameters(const DecodeDefaults& defaults) {
  return {
      integer_parameter("every", defaults.every, "1..", "tokens",
                        "cuts come less often, and the cache grows further beyond the budget"),
      choice_parameter(
          "trigger", defaults.triggers,
          "slack: cut as soon as the cache is `every` slots over the budget; strict: only when the "
          "tokens seen are a multiple of `every`; interval: every `every` decode steps; since_cut: "
          "`every` steps after the cut before, or as soon as there is something to cut"),
      boolean_parameter("count_prompt", true,
                        "whether the prompt's slots count for the triggers slack and strict"),
      choice_parameter("first_cut", defaults.first_cuts,
                       "the first cut waits for the trigger, or comes at the end of the prompt")};
}

std::unique_ptr<Cadence> make_decode(const Arguments& arguments) {
  DecodeOptions options;
  options.every = arguments.integer("every");
  const std::string& trigger = arguments.text("trigger");
  options.trigger = trigger == "slack"      ? DecodeOptions::Trigger::slack
                    : trigger == "strict"   ? DecodeOptions::Trigger::strict
                    : trigger == "interval" ? DecodeOptions::Trigger::interval
                                            : DecodeOptions::Trigger::since_cut;
  options.count_prompt = arguments.boolean("count_prompt");
  options.at_prompt_end = arguments.text("first_cut") == "prefill_end";
  return std::make_unique<Decode>(options);
}

PieceEntry decode_entry() {
  PieceEntry entry;
  entry.info.name = "decode";
  entry.info.kind = PieceInfo::Kind::cadence;
  entry.info.summary = "cuts the growing cache back to the budget every few new tokens";
  entry.info.paper =
      "the loop of R-KV, arXiv:2505.24133, and TriAttention, arXiv:2604.04921; trigger=interval: "
      "kvpress DecodingPress, since_cut: its CAMPress";
  entry.info.departures =
      "a capture shows the cut that it would make at the end of the prompt, and is marked as a "
      "replay; kvpress's defaults are every=512 and 2048 slots; tova|decode:every=1 and "
      "h2o|decode:every=1 are the authors' online forms while decoding, and | rows over the prompt";
  entry.info.parameters = decode_parameters();
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.cadence = make_decode(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
