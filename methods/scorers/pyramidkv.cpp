#include "allocators/allocators.h"
#include "scorers/snapkv.h"

namespace kvscope::detail {

PieceEntry pyramidkv_entry() {
  PieceEntry entry;
  entry.info.name = "pyramidkv";
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.summary = "SnapKV's scores with fewer slots in deeper layers";
  entry.info.paper = "Cai et al. 2024, arXiv:2406.02069";
  entry.info.departures = "kvpress's arithmetic: the window lies inside each layer's count";
  entry.info.expands_to = "snapkv | pyramid";
  describe_snapkv_score(entry.info);
  entry.info.parameters = snapkv_parameters();
  entry.info.parameters.push_back(beta_parameter());
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = make_snapkv(arguments);
    parts.allocator = make_pyramid(arguments.real("beta"));
  };
  return entry;
}

}  // namespace kvscope::detail
