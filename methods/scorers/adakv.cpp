#include "allocators/allocators.h"
#include "scorers/snapkv.h"

namespace kvscope::detail {

PieceEntry adakv_preset_entry() {
  PieceEntry entry;
  entry.info.name = "adakv";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary = "SnapKV's scores with one pool of slots for all heads of a layer";
  entry.info.paper = "Feng et al. 2024, arXiv:2407.11550";
  entry.info.departures =
      "kvpress's form: a guaranteed minimum per head; the authors blend adaptive and uniform "
      "counts";
  entry.info.expands_to = "snapkv | adakv";
  describe_snapkv_score(entry.info);
  entry.info.parameters = snapkv_parameters();
  entry.info.parameters.push_back(floor_parameter());
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = make_snapkv(arguments);
    parts.allocator = make_adakv(arguments.real("floor"));
  };
  return entry;
}

}  // namespace kvscope::detail
