#include "registry/entry.h"

namespace kvscope::detail {

PieceEntry low_bit_entry() {
  PieceEntry entry;
  entry.info.name = "low_bit";
  entry.info.kind = PieceInfo::Kind::representation;
  entry.info.summary =
      "values that a cut leaves are stored as small integers: a control for cache representation";
  entry.info.paper = "none; alpha's paper rejects cache representations it does not define";
  entry.info.departures =
      "our reading: symmetric integers, rounded to nearest even, with a float32 scale for each "
      "token and KV head; keys stay whole, and so do the values of later tokens until the next "
      "cut. What attends reads the rounded numbers; cache bytes count the packed ones. A budget, "
      "one in bytes too, counts whole slots: double it (--keep 0.4 beside 0.2) for the control as "
      "it is meant";
  entry.info.parameters = {choice_parameter("bits", "4|8", "signed integers of so many bits")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.form.value_bits = arguments.text("bits") == "8" ? 8 : 4;
  };
  return entry;
}

}  // namespace kvscope::detail
