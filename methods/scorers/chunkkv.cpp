#include "scorers/snapkv.h"
#include "selectors/selectors.h"

namespace kvscope::detail {

PieceEntry chunkkv_entry() {
  PieceEntry entry;
  entry.info.name = "chunkkv";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary = "SnapKV's scores; whole chunks of neighbouring tokens stay or go";
  entry.info.paper = "Liu et al. 2025, arXiv:2502.00299";
  entry.info.departures =
      "kvpress's form over SnapKV; any scorer takes the selector: knorm | chunks. The slots kept "
      "differ from the budget, a share of the chunks";
  entry.info.expands_to = "snapkv | chunks";
  describe_snapkv_score(entry.info);
  entry.info.parameters = snapkv_parameters();
  entry.info.parameters.push_back(chunk_size_parameter());
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = make_snapkv(arguments);
    parts.selector = make_chunks(arguments.integer("size"));
  };
  return entry;
}

}  // namespace kvscope::detail
