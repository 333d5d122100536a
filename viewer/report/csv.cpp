#include <fmt/format.h>

#include <cmath>

#include "kvscope/report/formats.h"

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

std::string value(const std::vector<double>& values, std::size_t at) {
  return at < values.size() && std::isfinite(values[at]) ? fmt::format("{}", values[at]) : "";
}

std::string counts(const FateCounts& fates) {
  std::string text;
  for (const char letter : fate_order) {
    text += fmt::format(",{}", fates.of(letter));
  }
  return text;
}

std::string key(const ReportMethod& method) {
  return fmt::format("{},{},{}", quoted(method.method), quoted(method.keep), quoted(method.origin));
}

const char* segment_name(Segment segment) {
  switch (segment) {
    case Segment::chat_template:
      return "template";
    case Segment::context:
      return "context";
    case Segment::question:
      return "question";
    case Segment::generated:
      return "generated";
  }
  return "unknown";
}

}  // namespace

std::string to_csv(const Report& report) {
  std::string csv =
      "method,keep,origin,layer,kv_head,granted,held,K,P,T,M,E,D,S,output_error,retained_mass,"
      "retained_mass_no_sinks,queries,seen_by_method\r\n";
  for (const ReportMethod& method : report.methods) {
    for (std::size_t row = 0; row < method.layers.size(); ++row) {
      const ReportLayer& layer = method.layers[row];
      for (std::size_t head = 0; head < layer.granted.size(); ++head) {
        const std::size_t place = row * layer.granted.size() + head;
        csv += fmt::format("{},{},{},{},{}{},{},{},{},{},{}\r\n", key(method), layer.layer, head,
                           layer.granted[head], layer.held[head], counts(method.fates.head[place]),
                           value(method.head_error, place), value(method.head_mass, place),
                           value(method.head_mass_no_sinks, place), quoted(method.cost.queries),
                           method.cost.present ? (method.cost.seen_by_method ? "1" : "0") : "");
      }
    }
  }
  return csv;
}

std::string to_csv_tokens(const Report& report) {
  std::string csv = "method,keep,origin,token,segment,text,held,heads,K,P,T,M,E,D,S,lost_error\r\n";
  for (const ReportMethod& method : report.methods) {
    for (std::size_t token = 0; token < method.token_fates.size() && token < report.tokens.size();
         ++token) {
      const FateCounts& fates = method.token_fates[token];
      csv += fmt::format("{},{},{},{},{},{}{},{}\r\n", key(method), token,
                         segment_name(report.tokens[token].segment),
                         quoted(report.tokens[token].text), fates.holding(), fates.total(),
                         counts(fates), value(method.token_error, token));
    }
  }
  return csv;
}

}  // namespace kvscope
