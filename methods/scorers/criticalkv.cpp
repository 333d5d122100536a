#include <utility>

#include "allocators/allocators.h"
#include "scorers/snapkv.h"
#include "selectors/selectors.h"

namespace kvscope::detail {
namespace {

/// SnapKV's scores with the two-stage selection; `floor` adds Ada-KV's pool of slots.
PieceEntry preset(const char* name, bool pooled) {
  PieceEntry entry;
  entry.info.name = name;
  entry.info.kind = PieceInfo::Kind::preset;
  entry.info.paper = "Feng et al. 2025, arXiv:2502.03805";
  describe_snapkv_score(entry.info);
  entry.info.parameters = snapkv_parameters();
  if (pooled) {
    entry.info.parameters.push_back(floor_parameter());
  }
  for (ParameterInfo& parameter : critical_parameters()) {
    entry.info.parameters.push_back(std::move(parameter));
  }
  entry.build = [pooled](const Arguments& arguments, Parts& parts) {
    parts.scorer = make_snapkv(arguments);
    if (pooled) {
      parts.allocator = make_adakv(arguments.real("floor"));
    }
    parts.selector = make_critical(arguments);
  };
  return entry;
}

}  // namespace

PieceEntry criticalkv_entry() {
  PieceEntry entry = preset("criticalkv", false);
  entry.info.summary =
      "SnapKV's scores; half of the slots by score, the rest by score times projected value size";
  entry.info.departures =
      "kvpress's form over SnapKV; any scorer takes the selector: knorm | critical";
  entry.info.expands_to = "snapkv | critical";
  return entry;
}

PieceEntry criticaladakv_entry() {
  PieceEntry entry = preset("criticaladakv", true);
  entry.info.summary =
      "criticalkv with one pool of slots for all heads of a layer: Ada-KV decides how many, the "
      "two stages which";
  entry.info.departures = "kvpress's form over SnapKV: a head's floor is filled by score";
  entry.info.expands_to = "snapkv | adakv | critical";
  return entry;
}

}  // namespace kvscope::detail
