#include "build.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvscope/core/error.h"
#include "kvscope/report/formats.h"
#include "text_table.h"

namespace kvscope {
namespace {

constexpr double comparable_memory = 0.05;

int bytes_of(const std::string& dtype) {
  const bool half = dtype == "bfloat16" || dtype == "float16" || dtype == "bf16" ||
                    dtype == "f16" || dtype == "BF16" || dtype == "F16";
  return half ? 2 : 4;
}

void check_same_run(const ReportInput& input, const Decision& decision) {
  const std::string& hash = input.capture.capture_hash;
  KVSCOPE_CHECK(hash.empty() || decision.capture_hash.empty() || hash == decision.capture_hash,
                ErrorCode::usage, "the decision was made on another capture",
                fmt::format("{} at {} (capture {}, not {})", decision.method, decision.keep,
                            decision.capture_hash, hash),
                "decide again on this capture");
  const ModelShape& shape = input.capture.shape;
  const bool same = decision.kv_heads == shape.kv_heads &&
                    decision.query_heads == shape.query_heads &&
                    static_cast<int>(decision.layers.size()) <= shape.layers;
  KVSCOPE_CHECK(
      same, ErrorCode::usage, "the decision's heads or layers are not the capture's",
      fmt::format("{} at {}: {} layers, {} query heads, {} KV heads", decision.method,
                  decision.keep, decision.layers.size(), decision.query_heads, decision.kv_heads),
      "decide again on this capture");
}

std::optional<ReportAnswer> answer_of(const ReportInput& input, const Decision& decision) {
  for (const ReportAnswer& answer : input.answers) {
    if (answer.method == decision.method && answer.keep == decision.keep) {
      return answer;
    }
  }
  return std::nullopt;
}

/// Whether all methods hold as much on average, and if not, who holds least and most.
std::string memory_sentence(const std::vector<ReportMethod>& methods) {
  if (methods.size() < 2) {
    return "";
  }
  const auto [least, most] = std::minmax_element(
      methods.begin(), methods.end(),
      [](const ReportMethod& a, const ReportMethod& b) { return a.mean_bytes < b.mean_bytes; });
  const double apart = most->mean_bytes > 0
                           ? static_cast<double>(most->mean_bytes - least->mean_bytes) /
                                 static_cast<double>(most->mean_bytes)
                           : 0;
  if (apart <= comparable_memory) {
    return fmt::format(
        "Matched memory: the methods' mean caches lie within {:.1f} % of each other.", 100 * apart);
  }
  const auto name = [&](const ReportMethod& method) {
    return report::short_name(static_cast<int>(&method - methods.data()), method.method,
                              method.keep);
  };
  return fmt::format(
      "Memory is not matched: mean caches range from {} ({}) to {} ({}). Methods more than {:.0f} "
      "% "
      "apart are not compared.",
      report::bytes_text(least->mean_bytes), name(*least), report::bytes_text(most->mean_bytes),
      name(*most), 100 * comparable_memory);
}

}  // namespace

Report build_report(const ReportInput& input) {
  Report report;
  report.capture = input.capture;
  report.full_answer = input.full_answer;
  const auto size_of_slot = [&](const CacheForm& form) {
    return slot_bytes(form, input.capture.shape.head_dim, bytes_of(input.capture.cache_dtype));
  };
  report.slot_bytes = size_of_slot(CacheForm{}).whole;
  for (int token = 0; token < input.tokens.size(); ++token) {
    report.tokens.push_back({printable(input.tokens.text(token)),
                             input.tokens.segment[static_cast<std::size_t>(token)]});
  }
  for (const Decision& decision : input.decisions) {
    check_same_run(input, decision);
    ReportMethod method = report::count_method(decision, input.tokens, size_of_slot(decision.form),
                                               input.lost_tokens);
    method.answer = answer_of(input, decision);
    if (method.answer && input.full_answer) {
      method.answer_changed = method.answer->text != *input.full_answer;
    }
    report.methods.push_back(std::move(method));
  }
  for (std::size_t a = 0; a < input.decisions.size(); ++a) {
    for (std::size_t b = a + 1; b < input.decisions.size(); ++b) {
      const Decision& left = input.decisions[a];
      const Decision& right = input.decisions[b];
      // A live run may have seen more tokens than a replay: there is nothing to set side by side
      // then.
      if (left.tokens == right.tokens && left.layers.size() == right.layers.size()) {
        report.pairs.push_back({static_cast<int>(a), static_cast<int>(b), agreement(left, right)});
      }
    }
  }
  report.any_memory = input.any_memory;
  report.memory = memory_sentence(report.methods);
  for (const std::string& needle : input.find) {
    report.found.push_back(report::follow(needle, input.tokens, input.decisions));
  }
  return report;
}

}  // namespace kvscope
