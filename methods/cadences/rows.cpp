#include <fmt/format.h>

#include "cadences/decode.h"
#include "kvscope/core/error.h"
#include "kvscope/evidence/model_run.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

/// The closed loop: what a cut leaves is all that the next rows of the prompt see.
class RowLoop : public Cadence {
 public:
  explicit RowLoop(const DecodeOptions& options) : options_(options) {}

  std::unique_ptr<Compressor> start(ModelRun& run, const Method& method, const Budget& budget,
                                    const DecideOptions& decide) const override {
    KVSCOPE_CHECK(run.live() && run.tokens_seen() == 0, ErrorCode::usage,
                  fmt::format("method '{}' cuts while the prompt is read, but the run has read {} "
                              "tokens of it",
                              method.text(), run.tokens_seen()),
                  run.model_name(), "start the method on a live run before its prefill");
    return start_decode(run, method, budget, decide, options_);
  }
  bool cuts_while_reading() const override { return true; }
  bool decides_once() const override { return true; }

 private:
  DecodeOptions options_;
};

}  // namespace

PieceEntry rows_entry() {
  PieceEntry entry;
  entry.info.name = "rows";
  entry.info.kind = PieceInfo::Kind::cadence;
  entry.info.summary =
      "reads the prompt row by row and cuts back to the budget after each: the closed loop, in "
      "which a row attends to what earlier cuts have left";
  entry.info.paper =
      "the online loops of H2O, arXiv:2306.14048, TOVA, arXiv:2401.06104, and, in blocks, KeyDiff, "
      "arXiv:2504.15364";
  entry.info.departures =
      "rows that fit the budget are read in one pass, since no cut comes between them; h2o | rows "
      "and tova:newest=scored | rows are the papers' greedy forms with the query heads of a group "
      "choosing as one (tova: all of the layer). A larger block is another method, and one of the "
      "prompt's length is the single cut after prefill. A capture shows that single cut, and is "
      "marked as a replay";
  entry.info.parameters = {
      integer_parameter("block", 1, "1..", "prompt rows",
                        "cuts come less often, and the cache grows further beyond the budget"),
      boolean_parameter("decode", true, "whether cuts go on after every generated token")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    DecodeOptions options;
    options.every = 1;
    options.read_block = arguments.integer("block");
    options.while_decoding = arguments.boolean("decode");
    parts.cadence = std::make_unique<RowLoop>(options);
  };
  return entry;
}

}  // namespace kvscope::detail
