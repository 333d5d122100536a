#include "text_parts.h"

#include <fmt/format.h>

#include <algorithm>

#include "build.h"
#include "kvscope/report/formats.h"
#include "printable.h"
#include "text_table.h"

namespace kvscope::report {
namespace {

template <typename Visit>
void each(const Report& report, Visit visit) {
  for (std::size_t i = 0; i < report.methods.size(); ++i) {
    visit(static_cast<int>(i), report.methods[i]);
  }
}

/// The token in its context, the context cut on both sides to fit.
std::string around(const std::string& before, const std::string& text, const std::string& after,
                   int width) {
  const std::string marked = "[" + text + "]";
  const int side = std::max(0, (width - display_width(marked)) / 2);
  std::string left = before;
  while (display_width(left) > side && !left.empty()) {
    left.erase(0, std::max<std::size_t>(1, utf8_length(left, 0)));
  }
  const std::string right = display_width(after) > side && side > 0 ? fit(after, side) : after;
  return left + marked + (side > 0 ? right : "");
}

std::string verdicts(const Report& report, const FoundText& fact) {
  TextTable table({"method", "run", "the fact is", "heads with all of it", "with none", "answer"},
                  "lllrrl");
  for (const FoundFate& fate : fact.fates) {
    const ReportMethod& method = report.methods[static_cast<std::size_t>(fate.method)];
    table.add({text_name(report, fate.method), run_word(method), fate.verdict,
               fmt::format("{}/{}", fate.whole_heads, fate.heads),
               fmt::format("{}/{}", fate.none_heads, fate.heads),
               !method.answer_changed   ? "unknown"
               : *method.answer_changed ? "changed"
                                        : "unchanged"});
  }
  return table.text();
}

std::string losses(const Report& report, const FoundFate& fate) {
  const ReportMethod& method = report.methods[static_cast<std::size_t>(fate.method)];
  std::string text = fmt::format("  {} ({})\n", text_name(report, fate.method), run_word(method));
  for (const FoundToken& token : fate.tokens) {
    const std::string places = lost_places(token, method.fates.kv_heads);
    text += wrapped(fmt::format("{} {} held {}/{}{}", token.token, fit("[" + token.text + "]", 14),
                                token.held, token.heads, places.empty() ? "" : "  lost: " + places),
                    10, 4);
  }
  return text;
}

std::string answers(const Report& report) {
  std::string text;
  if (report.full_answer) {
    text += wrapped(fmt::format("full cache: {}", printable(*report.full_answer)), 4, 2);
  }
  each(report, [&](int i, const ReportMethod& method) {
    if (!method.answer) {
      return;
    }
    const ReportAnswer& answer = *method.answer;
    text += wrapped(
        fmt::format("{} ({}): {}{} {}", text_name(report, i), "live",
                    !method.answer_changed   ? ""
                    : *method.answer_changed ? fmt::format("changed, first differs at token {}, ",
                                                           answer.first_divergence)
                                             : "unchanged, ",
                    fmt::format("KL {} nat, cache {}:", number(answer.mean_divergence),
                                bytes_text(answer.cache_bytes)),
                    printable(answer.text)),
        4, 2);
  });
  return text.empty()
             ? ""
             : text_title("ANSWERS", "of the model, generated live with each method's cache") +
                   text;
}

}  // namespace

std::string text_title(const std::string& name, const std::string& note) {
  return note.empty() ? fmt::format("\n{}\n", name) : fmt::format("\n{}   {}\n", name, note);
}

/// Words on lines of at most the page width, each indented.
std::string wrapped(const std::string& text, int indent, int first_indent) {
  std::string out(static_cast<std::size_t>(first_indent), ' ');
  int used = first_indent;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    const int width = display_width(word);
    if (used > indent && used + 1 + width > page_width) {
      out += "\n" + std::string(static_cast<std::size_t>(indent), ' ');
      used = indent;
    } else if (at > 0) {
      out += ' ';
      ++used;
    }
    out += word;
    used += width;
    at = end + 1;
  }
  return out + "\n";
}

std::string text_name(const Report& report, int index) {
  const ReportMethod& method = report.methods[static_cast<std::size_t>(index)];
  return short_name(index, method.method, method.keep);
}

std::string run_word(const ReportMethod& method) {
  return !method.replayed ? "live" : method.replay_exact ? "replay" : "replay~";
}

std::string text_found(const Report& report) {
  std::string text;
  for (const FoundText& fact : report.found) {
    text += text_title("FIND", fmt::format("\"{}\"", printable(fact.needle)));
    if (!fact.found) {
      text += "  not in the captured text\n";
      continue;
    }
    text += wrapped(fmt::format("tokens {} to {}{}: {}", fact.first, fact.last - 1,
                                fact.occurrences > 1
                                    ? fmt::format(", the first of {} occurrences", fact.occurrences)
                                    : "",
                                fact.before + "[" + fact.text + "]" + fact.after),
                    4, 2);
    text += verdicts(report, fact);
    for (const FoundFate& fate : fact.fates) {
      text += losses(report, fate);
    }
  }
  return text + answers(report);
}

std::string text_agreement(const Report& report) {
  if (report.pairs.empty()) {
    return "";
  }
  TextTable table(
      {"method", "run", "method", "run", "Jaccard", "worst layer", "worst head", "memory"},
      "llllrrrl");
  for (const ReportPair& pair : report.pairs) {
    const ReportMethod& a = report.methods[static_cast<std::size_t>(pair.a)];
    const ReportMethod& b = report.methods[static_cast<std::size_t>(pair.b)];
    const Agreement& agreed = pair.agreement;
    const auto worst = std::min_element(
        agreed.layer.begin(), agreed.layer.end(),
        [](const SetOverlap& x, const SetOverlap& y) { return x.jaccard() < y.jaccard(); });
    const auto row = static_cast<std::size_t>(worst - agreed.layer.begin());
    const bool shown = (report.any_memory || agreed.comparable()) && !agreed.layer.empty();
    table.add({text_name(report, pair.a), run_word(a), text_name(report, pair.b), run_word(b),
               shown ? number(agreed.total.jaccard(), 3) : "–",
               shown ? fmt::format("L{} {:.3f}", a.layers[row].layer, worst->jaccard()) : "–",
               shown
                   ? fmt::format("L{} h{} {:.3f}",
                                 a.layers[static_cast<std::size_t>(agreed.worst_layer_row)].layer,
                                 agreed.worst_kv_head,
                                 agreed.at(agreed.worst_layer_row, agreed.worst_kv_head).jaccard())
                   : "–",
               agreed.remark()});
  }
  return text_title("AGREEMENT", "cells that hold a slot in both, over cells that do in either") +
         table.text();
}

std::string text_lost(const Report& report) {
  std::string text;
  each(report, [&](int i, const ReportMethod& method) {
    if (method.lost.empty()) {
      return;
    }
    text += fmt::format("  {} ({}{})\n", text_name(report, i), run_word(method),
                        method.cost.seen_by_method ? ", queries seen by the method" : "");
    for (const LostToken& token : method.lost) {
      text += fmt::format("  {:>8} {:>7.4f}  {} L{:<2} h{:<2} lost in {:>3}/{:<3} ", token.token,
                          token.error, token.fate, token.layer, token.kv_head, token.lost_heads,
                          token.heads) +
              around(token.before, token.text, token.after, page_width - 48) + "\n";
    }
    text += wrapped("the first: " + method.lost.front().why, 11, 11);
  });
  return text.empty() ? ""
                      : text_title("COSTLIEST LOST TOKENS",
                                   "token, error of losing it summed over heads, worst place") +
                            text;
}

std::string text_checks(const Report& report) {
  std::string text;
  each(report, [&](int i, const ReportMethod& method) {
    for (const Finding& finding : method.checks) {
      text += wrapped(fmt::format("{} {} {} ({}): {}", severity_name(finding.severity),
                                  text_name(report, i), finding.id, run_word(method), finding.text),
                      4, 2);
    }
  });
  return text_title("HEALTH CHECKS", "") + (text.empty() ? "  nothing found\n" : text);
}

}  // namespace kvscope::report
