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

bool is_due(const DecodeOptions& options, int slots, int budget, int prompt_tokens,
            int tokens_seen) {
  const int counted = slots - (options.count_prompt ? 0 : prompt_tokens);
  return slots > budget && (options.trigger == DecodeOptions::Trigger::slack
                                ? counted >= budget + options.every
                                : counted >= budget && tokens_seen % options.every == 0);
}

std::vector<ParameterInfo> decode_parameters() {
  return {
      integer_parameter("every", 128, "1..", "tokens",
                        "cuts come less often, and the cache grows further beyond the budget"),
      choice_parameter(
          "trigger", "slack|strict",
          "cut as soon as the cache is `every` slots over the budget, or only when the "
          "tokens seen are a multiple of `every`"),
      boolean_parameter("count_prompt", true, "whether the prompt's slots count for the trigger"),
      choice_parameter("first_cut", "trigger|prefill_end",
                       "the first cut waits for the trigger, or comes at the end of the prompt")};
}

std::unique_ptr<Cadence> make_decode(const Arguments& arguments) {
  DecodeOptions options;
  options.every = arguments.integer("every");
  options.trigger = arguments.text("trigger") == "slack" ? DecodeOptions::Trigger::slack
                                                         : DecodeOptions::Trigger::strict;
  options.count_prompt = arguments.boolean("count_prompt");
  options.at_prompt_end = arguments.text("first_cut") == "prefill_end";
  return std::make_unique<Decode>(options);
}

PieceEntry decode_entry() {
  PieceEntry entry;
  entry.info.name = "decode";
  entry.info.kind = PieceInfo::Kind::cadence;
  entry.info.summary = "cuts the growing cache back to the budget every few new tokens";
  entry.info.paper = "the loop of R-KV, arXiv:2505.24133, and TriAttention, arXiv:2604.04921";
  entry.info.departures =
      "a capture shows the cut that it would make at the end of the prompt, and is marked as a "
      "replay; tova|decode:every=1 and h2o|decode:every=1 are the authors' online forms while "
      "decoding";
  entry.info.parameters = decode_parameters();
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.cadence = make_decode(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
