#include <fmt/format.h>

#include <algorithm>

#include "kvscope/report/formats.h"
#include "text_parts.h"
#include "text_table.h"

namespace kvscope {
namespace {

using report::bytes_text;
using report::grouped;
using report::number;
using report::percent;
using report::text_title;
using report::TextTable;

class TextReport {
 public:
  explicit TextReport(const Report& report) : report_(report) {}

  std::string text() const {
    std::string text = head() + methods();
    if (report_.methods.empty()) {
      return text;
    }
    return text + report::text_found(report_) + budgets() + fates() + costs() + classes() +
           report::text_agreement(report_) + report::text_lost(report_) +
           report::text_checks(report_) + layers();
  }

 private:
  std::string name(int index) const { return report::text_name(report_, index); }

  static std::string run(const ReportMethod& method) { return report::run_word(method); }

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
    std::string text = text_title("METHODS", "");
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
    return report_.methods.empty() ? text_title("METHODS", "no decision given") : text;
  }

  std::string budgets() const {
    TextTable table({"method", "run", "asked", "granted", "held", "held %", "least..most/layer",
                     "mean cache", "peak"},
                    "llrrrrrrr");
    each([&](int i, const ReportMethod& method) {
      table.add({name(i), run(method), grouped(method.asked_slots), grouped(method.granted_slots),
                 grouped(method.held_slots), percent(method.fates.total.kept_share()),
                 fmt::format("{}..{}", grouped(method.least_granted_layer),
                             grouped(method.most_granted_layer)),
                 bytes_text(method.mean_bytes), bytes_text(method.peak_bytes)});
    });
    const ReportMethod& first = report_.methods.front();
    return text_title("BUDGETS AND MEMORY",
                      "slots: one per KV head and token; held counts tokens after the cut too") +
           table.text() +
           report::wrapped(
               fmt::format(
                   "mean and peak: keys and values from the first cut on, as {}; before it "
                   "{} {}; uncompressed at the end {}",
                   report_.capture.cache_dtype.empty() ? "float32" : report_.capture.cache_dtype,
                   name(0), bytes_text(first.first_bytes), bytes_text(first.full_bytes)),
               2, 2) +
           (report_.memory.empty() ? "" : report::wrapped(report_.memory, 2, 2));
  }

  std::string fates() const {
    TextTable table({"method", "run", "K kept", "P protected", "T target", "M merged", "E evicted",
                     "D dropped", "S skipped", "D/lost", "gone"},
                    "llrrrrrrrrr");
    each([&](int i, const ReportMethod& method) {
      std::vector<std::string> row = {name(i), run(method)};
      for (const char letter : fate_order) {
        row.push_back(grouped(method.fates.total.of(letter)));
      }
      row.push_back(percent(method.fates.total.dropped_share()));
      row.push_back(percent(method.gone_share));
      table.add(row);
    });
    return text_title("FATES",
                      "KV heads x tokens; D: removed by a merge that folded it into nothing; gone: "
                      "E and D") +
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
    return text_title("COST",
                      "relative output error and attention mass retained, means over query heads") +
           table.text() +
           (any ? ""
                : "  no metrics in these decisions: decide with --metrics decode or last:64\n");
  }

  std::string classes() const {
    std::vector<std::string> headings = {"method", "run"};
    std::vector<std::string> text_row = {"share of the text", ""};
    const auto& first = report_.methods.front().classes;
    for (std::size_t kind = 0; kind < first.size(); ++kind) {
      if (first[kind].tokens > 0) {
        headings.emplace_back(token_class_name(static_cast<TokenClass>(kind)));
        text_row.push_back(percent(first[kind].of_text));
      }
    }
    TextTable table(headings, "ll" + std::string(headings.size() - 2, 'r'));
    table.add(text_row);
    each([&](int i, const ReportMethod& method) {
      std::vector<std::string> row = {name(i), run(method)};
      for (std::size_t kind = 0; kind < first.size(); ++kind) {
        if (first[kind].tokens > 0) {
          row.push_back(percent(method.classes[kind].of_slots));
        }
      }
      row.resize(headings.size());
      table.add(row);
    });
    return text_title("WHAT THE BUDGET BUYS", "share of the held slots by class of token") +
           table.text();
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
      text +=
          text_title(fmt::format("LAYERS OF {}", name(i)),
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
