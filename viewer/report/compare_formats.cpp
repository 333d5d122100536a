#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "kvscope/report/compare.h"
#include "text_table.h"

namespace kvscope {

std::string to_text(const Comparison& comparison) {
  if (comparison.differences.empty()) {
    return fmt::format("no differences in {} planes\n", comparison.compared);
  }
  report::TextTable table({"what", "differ", "of", "largest", "relative", "first (A | B)"},
                          "lrrrrl");
  for (const Difference& found : comparison.differences) {
    const bool numbers = found.total > 0 && found.largest > 0;
    table.add({found.what, found.count > 0 ? report::grouped(found.count) : "",
               found.total > 0 ? report::grouped(found.total) : "",
               numbers ? fmt::format("{:.3g}", found.largest) : "",
               numbers && found.relative > 0 ? fmt::format("{:.2g}", found.relative) : "",
               found.first});
  }
  return table.text() + fmt::format("{} differences; {} planes compared\n",
                                    comparison.differences.size(), comparison.compared);
}

std::string to_json(const Comparison& comparison) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Difference& found : comparison.differences) {
    nlohmann::ordered_json entry = {{"what", found.what}, {"first", found.first}};
    entry["layer"] = found.layer >= 0 ? nlohmann::ordered_json(found.layer) : nullptr;
    entry["count"] = found.count;
    entry["total"] = found.total;
    entry["largest"] =
        std::isfinite(found.largest) ? nlohmann::ordered_json(found.largest) : nullptr;
    entry["relative"] =
        std::isfinite(found.relative) ? nlohmann::ordered_json(found.relative) : nullptr;
    list.push_back(std::move(entry));
  }
  const nlohmann::ordered_json json = {{"equal", comparison.differences.empty()},
                                       {"compared", comparison.compared},
                                       {"differences", list}};
  return json.dump(2);
}

}  // namespace kvscope
