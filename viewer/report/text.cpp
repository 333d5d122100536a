#include <fmt/format.h>

#include <algorithm>

#include "kvscope/report/formats.h"
#include "printable.h"
#include "text_table.h"

namespace kvscope {
namespace {

using report::bytes_text;
using report::grouped;
using report::number;
using report::percent;
using report::TextTable;

constexpr int page_width = 100;

std::string title(const std::string& name, const std::string& note) {
  return note.empty() ? fmt::format("\n{}\n", name) : fmt::format("\n{}   {}\n", name, note);
}

/// Words on lines of at most the page width, each indented.
std::string wrapped(const std::string& text, int indent, int first_indent) {
  std::string out(static_cast<std::size_t>(first_indent), ' ');
  int used = first_indent;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    const int width = report::display_width(word);
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

class TextReport {
 public:
  explicit TextReport(const Report& report) : report_(report) {}

  std::string text() const {
    std::string text = head() + methods();
    if (report_.methods.empty()) {
      return text;
    }
    return text + found() + budgets() + fates() + costs() + agreement() + lost() + checks() +
           layers();
  }

 private:
  std::string name(int index) const {
    const ReportMethod& method = report_.methods[static_cast<std::size_t>(index)];
    return report::short_name(index, method.preset, method.keep);
  }

  static std::string run(const ReportMethod& method) {
    return !method.replayed ? "live" : method.replay_exact ? "replay" : "replay~";
  }

  template <typename Visit>
  void each(Visit visit) const {
    for (std::size_t i = 0; i < report_.methods.size(); ++i) {
      visit(static_cast<int>(i), report_.methods[i]);
    }
  }

  std::string head() const {
    const CaptureIndex& capture = report_.capture;
    const ModelShape& shape = capture.shape;
    const auto tokens = static_cast<int>(report_.tokens.size());
    std::string text = fmt::format("{}   {}   profile {}\n", capture.model_name, capture.path,
                                   profile_name(capture.profile));
    text += fmt::format(
        "{} layers, {} query heads, {} KV heads of {}; {} tokens ({} context, {} question, "
        "{} generated)\n",
        shape.layers, shape.query_heads, shape.kv_heads, shape.head_dim, grouped(tokens),
        grouped(capture.context_tokens),
        grouped(std::max(0, capture.prompt_tokens - capture.context_tokens)),
        grouped(std::max(0, tokens - capture.prompt_tokens)));
    return text;
  }

  std::string methods() const {
    std::string text = title("METHODS", "");
    each([&](int i, const ReportMethod& method) {
      text += fmt::format("{:>3}  {}   keep {}   {}, {} cut{} after {} tokens{}\n", i + 1,
                          method.method, method.keep, method.origin, method.cuts,
                          method.cuts == 1 ? "" : "s", grouped(method.cut_tokens),
                          method.by_method ? ", sets its own size" : "");
    });
    text +=
        "  replay: decided on the full cache's capture, equal to a live run (one cut after "
        "prefill)\n"
        "  replay~: a live run would have computed other hidden states; live: decided while "
        "running\n";
    return report_.methods.empty() ? title("METHODS", "no decision given") : text;
  }

  std::string budgets() const {
    TextTable table(
        {"method", "run", "asked", "granted", "held", "held %", "least..most/layer", "cache", "of"},
        "llrrrrrrr");
    each([&](int i, const ReportMethod& method) {
      table.add({name(i), run(method), grouped(method.asked_slots), grouped(method.granted_slots),
                 grouped(method.held_slots), percent(method.fates.total.kept_share()),
                 fmt::format("{}..{}", grouped(method.least_granted_layer),
                             grouped(method.most_granted_layer)),
                 bytes_text(method.held_bytes), bytes_text(method.full_bytes)});
    });
    return title("BUDGETS",
                 "slots: one per KV head and token; held counts tokens after the cut too") +
           table.text();
  }

  std::string fates() const {
    TextTable table({"method", "run", "K kept", "P protected", "T target", "M merged", "E evicted",
                     "D dropped", "S skipped", "D/lost"},
                    "llrrrrrrrr");
    each([&](int i, const ReportMethod& method) {
      std::vector<std::string> row = {name(i), run(method)};
      for (const char letter : fate_order) {
        row.push_back(grouped(method.fates.total.of(letter)));
      }
      row.push_back(percent(method.fates.total.dropped_share()));
      table.add(row);
    });
    return title("FATES", "KV heads x tokens; D: lost by a merge that folded it into nothing") +
           table.text();
  }

  std::string costs() const {
    TextTable table({"method", "run", "error", "worst", "at", "mass", "no sinks", "queries", ""},
                    "llrrlrrll");
    bool any = false;
    each([&](int i, const ReportMethod& method) {
      const ReportCost& cost = method.cost;
      any = any || cost.present;
      if (!cost.present) {
        table.add({name(i), run(method), "–", "–", "", "–", "–", "not computed", ""});
        return;
      }
      table.add({name(i), run(method), number(cost.output_error_mean),
                 number(cost.output_error_max),
                 fmt::format("L{} q{}", cost.worst_layer, cost.worst_query_head),
                 number(cost.retained_mass), number(cost.retained_mass_no_sinks),
                 fmt::format("{}", cost.queries),
                 cost.seen_by_method ? "seen by the method" : "not seen"});
    });
    return title("COST",
                 "relative output error and attention mass retained, means over query heads") +
           table.text() +
           (any ? ""
                : "  no metrics in these decisions: decide with --metrics decode or last:64\n");
  }

  std::string agreement() const {
    if (report_.pairs.empty()) {
      return "";
    }
    TextTable table(
        {"method", "run", "method", "run", "Jaccard", "worst layer", "worst head", "budgets"},
        "llllrrrl");
    for (const ReportPair& pair : report_.pairs) {
      const ReportMethod& a = report_.methods[static_cast<std::size_t>(pair.a)];
      const ReportMethod& b = report_.methods[static_cast<std::size_t>(pair.b)];
      const Agreement& agreed = pair.agreement;
      const auto worst = std::min_element(
          agreed.layer.begin(), agreed.layer.end(),
          [](const SetOverlap& x, const SetOverlap& y) { return x.jaccard() < y.jaccard(); });
      const auto row = static_cast<std::size_t>(worst - agreed.layer.begin());
      const bool shown = agreed.comparable() && !agreed.layer.empty();
      table.add(
          {name(pair.a), run(a), name(pair.b), run(b),
           shown ? number(agreed.total.jaccard(), 3) : "–",
           shown ? fmt::format("L{} {:.3f}", a.layers[row].layer, worst->jaccard()) : "–",
           shown ? fmt::format("L{} h{} {:.3f}",
                               a.layers[static_cast<std::size_t>(agreed.worst_layer_row)].layer,
                               agreed.worst_kv_head,
                               agreed.at(agreed.worst_layer_row, agreed.worst_kv_head).jaccard())
                 : "–",
           agreed.remark()});
    }
    return title("AGREEMENT", "cells that hold a slot in both, over cells that do in either") +
           table.text();
  }

  std::string lost() const {
    std::string text;
    each([&](int i, const ReportMethod& method) {
      if (method.lost.empty()) {
        return;
      }
      text += fmt::format("  {} ({}{})\n", name(i), run(method),
                          method.cost.seen_by_method ? ", queries seen by the method" : "");
      for (const LostToken& token : method.lost) {
        text += fmt::format("  {:>8} {:>7.4f}  {} L{:<2} h{:<2} lost in {:>3}/{:<3} ", token.token,
                            token.error, token.fate, token.layer, token.kv_head, token.lost_heads,
                            token.heads) +
                around(token.before, token.text, token.after, page_width - 48) + "\n";
      }
    });
    return text.empty() ? ""
                        : title("COSTLIEST LOST TOKENS",
                                "token, error of losing it summed over heads, worst place") +
                              text;
  }

  /// The token in its context, the context cut on both sides to fit.
  static std::string around(const std::string& before, const std::string& text,
                            const std::string& after, int width) {
    const std::string marked = "[" + text + "]";
    const int side = std::max(0, (width - report::display_width(marked)) / 2);
    std::string left = before;
    while (report::display_width(left) > side && !left.empty()) {
      left.erase(0, std::max<std::size_t>(1, report::utf8_length(left, 0)));
    }
    const std::string right =
        report::display_width(after) > side && side > 0 ? report::fit(after, side) : after;
    return left + marked + (side > 0 ? right : "");
  }

  std::string checks() const {
    std::string text;
    each([&](int i, const ReportMethod& method) {
      for (const Finding& finding : method.checks) {
        text += wrapped(fmt::format("{} {} {} ({}): {}", severity_name(finding.severity), name(i),
                                    finding.id, run(method), finding.text),
                        4, 2);
      }
    });
    return title("HEALTH CHECKS", "") + (text.empty() ? "  nothing found\n" : text);
  }

  std::string found() const {
    std::string text;
    for (const FoundText& fact : report_.found) {
      text += title("FIND", fmt::format("\"{}\"", printable(fact.needle)));
      if (!fact.found) {
        text += "  not in the captured text\n";
        continue;
      }
      text +=
          wrapped(fmt::format("tokens {} to {}{}: {}", fact.first, fact.last - 1,
                              fact.occurrences > 1
                                  ? fmt::format(", the first of {} occurrences", fact.occurrences)
                                  : "",
                              fact.before + "[" + fact.text + "]" + fact.after),
                  4, 2);
      text += verdicts(fact);
      for (const FoundFate& fate : fact.fates) {
        text += losses(fate);
      }
    }
    return text + answers();
  }

  std::string verdicts(const FoundText& fact) const {
    TextTable table({"method", "run", "the fact is", "heads with all of it", "with none", "answer"},
                    "lllrrl");
    for (const FoundFate& fate : fact.fates) {
      const ReportMethod& method = report_.methods[static_cast<std::size_t>(fate.method)];
      table.add({name(fate.method), run(method), fate.verdict,
                 fmt::format("{}/{}", fate.whole_heads, fate.heads),
                 fmt::format("{}/{}", fate.none_heads, fate.heads),
                 !method.answer_changed   ? "unknown"
                 : *method.answer_changed ? "changed"
                                          : "unchanged"});
    }
    return table.text();
  }

  std::string losses(const FoundFate& fate) const {
    std::string text = fmt::format("  {} ({})\n", name(fate.method),
                                   run(report_.methods[static_cast<std::size_t>(fate.method)]));
    for (const FoundToken& token : fate.tokens) {
      std::string places;
      for (const FoundToken::Loss& loss : token.lost) {
        places += fmt::format("{}L{} {} {}", places.empty() ? "" : "; ", loss.layer,
                              head_list(loss.kv_heads), one_or_all(loss.letters));
      }
      text += wrapped(
          fmt::format("{} {} held {}/{}{}", token.token, report::fit("[" + token.text + "]", 14),
                      token.held, token.heads, places.empty() ? "" : "  lost: " + places),
          10, 4);
    }
    return text;
  }

  static std::string one_or_all(const std::string& letters) {
    const bool same = letters.find_first_not_of(letters.front()) == std::string::npos;
    return same ? letters.substr(0, 1) : letters;
  }

  std::string answers() const {
    std::string text;
    if (report_.full_answer) {
      text += wrapped(fmt::format("full cache: {}", printable(*report_.full_answer)), 4, 2);
    }
    each([&](int i, const ReportMethod& method) {
      if (!method.answer) {
        return;
      }
      const ReportAnswer& answer = *method.answer;
      text += wrapped(
          fmt::format("{} ({}): {}{} {}", name(i), "live",
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
               : title("ANSWERS", "of the model, generated live with each method's cache") + text;
  }

  std::string layers() const {
    std::string text;
    each([&](int i, const ReportMethod& method) {
      TextTable table(
          {"layer", "held by KV head", "K", "P", "T", "M", "E", "D", "S", "error", "mass"},
          "rlrrrrrrrrr");
      for (const ReportLayer& layer : method.layers) {
        std::vector<std::string> row = {fmt::format("L{}", layer.layer), held_text(layer.held)};
        for (const char letter : fate_order) {
          row.push_back(fmt::format("{}", layer.fates.of(letter)));
        }
        row.push_back(number(layer.output_error, 3));
        row.push_back(number(layer.retained_mass, 3));
        table.add(row);
      }
      text += title(fmt::format("LAYERS OF {}", name(i)),
                    fmt::format(
                        "{}{}; each KV head's fates: --format csv", method.origin,
                        method.cost.present
                            ? fmt::format("; queries: {}{}", method.cost.queries,
                                          method.cost.seen_by_method ? ", seen by the method" : "")
                            : "")) +
              table.text();
    });
    return text;
  }

  static std::string held_text(const std::vector<int>& held) {
    if (held.size() > 8) {
      const auto [least, most] = std::minmax_element(held.begin(), held.end());
      return fmt::format("{}..{}", *least, *most);
    }
    return fmt::format("{}", fmt::join(held, " "));
  }

  const Report& report_;
};

}  // namespace

std::string to_text(const Report& report) {
  return TextReport(report).text();
}

}  // namespace kvscope
