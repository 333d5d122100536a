#include <fmt/format.h>

#include <cmath>

#include "kvscope/report/formats.h"
#include "spectrum_parts.h"

namespace kvscope {
namespace {

std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) {
    return text;
  }
  std::string out = "\"";
  for (const char character : text) {
    out += character == '"' ? "\"\"" : std::string(1, character);
  }
  return out + "\"";
}

}  // namespace

std::string to_csv(const Spectrum& spectrum) {
  std::string csv = "table,units,layer,place,index,value\r\n";
  for (const auto& [path, table] : spectrum.tables) {
    if (report::is_bulky(path) || table.shape.empty()) {
      continue;
    }
    const auto rows = static_cast<std::size_t>(std::max(table.shape[0], 1));
    const std::size_t width = table.values.size() / rows;
    const std::size_t places =
        table.shape.size() > 1 ? static_cast<std::size_t>(std::max(table.shape[1], 1)) : 1;
    const bool by_projection = table.axes.size() > 1 && table.axes[1] == "proj";
    for (std::size_t at = 0; at < table.values.size(); ++at) {
      if (!std::isfinite(table.values[at])) {
        continue;
      }
      const std::size_t within = at % width;
      const std::size_t place = within / (width / places);
      const std::string where = table.shape.size() < 2 ? ""
                                : by_projection && place < spectrum.projections.size()
                                    ? spectrum.projections[place]
                                    : fmt::format("{}", place);
      const std::string index =
          table.shape.size() < 3 ? "" : fmt::format("{}", within % (width / places));
      csv += fmt::format("{},{},{},{},{},{}\r\n", quoted(path), quoted(table.units),
                         spectrum.layers[at / width], where, index, table.values[at]);
    }
  }
  return csv;
}

}  // namespace kvscope
