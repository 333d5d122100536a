#include <fmt/format.h>

#include <algorithm>

#include "build.h"
#include "html_parts.h"
#include "kvscope/report/formats.h"
#include "printable.h"
#include "text_table.h"

namespace kvscope {
namespace {

using report::bytes_text;
using report::grouped;
using report::html_escape;
using report::html_table;
using report::number;
using report::percent;

constexpr int longest_text = 20000;  // tokens shown one by one

class HtmlReport {
 public:
  explicit HtmlReport(const Report& report) : report_(report) {}

  std::string page() const {
    const CaptureIndex& capture = report_.capture;
    std::string html = fmt::format(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>kvscope: "
        "{}</title>"
        "<meta name=\"viewport\" content=\"width=device-width\"/><style>{}</style></head><body>\n"
        "<h1>{}</h1>\n<p>{} layers, {} query heads, {} KV heads of {}; {} tokens; profile {}; "
        "{}</p>\n",
        html_escape(capture.model_name), report::page_style(), html_escape(capture.model_name),
        capture.shape.layers, capture.shape.query_heads, capture.shape.kv_heads,
        capture.shape.head_dim, grouped(static_cast<std::int64_t>(report_.tokens.size())),
        profile_name(capture.profile), html_escape(capture.path));
    html += found() + budgets() + fates() + costs() + classes() + agreement() + lost() + checks() +
            layers() + texts();
    return html + fmt::format("<script>{}</script></body></html>\n", report::page_script());
  }

 private:
  using Rows = std::vector<std::vector<std::string>>;

  std::string name(int index) const {
    const ReportMethod& method = report_.methods[static_cast<std::size_t>(index)];
    return html_escape(report::short_name(index, method.method, method.keep));
  }

  template <typename Visit>
  void each(Visit visit) const {
    for (std::size_t i = 0; i < report_.methods.size(); ++i) {
      visit(static_cast<int>(i), report_.methods[i]);
    }
  }

  static std::string section(const std::string& title, const std::string& note,
                             const std::string& body) {
    return fmt::format("<h2>{}</h2>\n<p class=\"note\">{}</p>\n{}", title, note, body);
  }

  std::string budgets() const {
    Rows rows;
    each([&](int i, const ReportMethod& m) {
      rows.push_back({name(i), "<code>" + html_escape(m.method) + "</code>", m.origin,
                      html_escape(m.keep), grouped(m.asked_slots), grouped(m.granted_slots),
                      grouped(m.held_slots), percent(m.fates.total.kept_share()),
                      grouped(m.least_granted_layer) + "–" + grouped(m.most_granted_layer),
                      bytes_text(m.mean_bytes), bytes_text(m.peak_bytes)});
    });
    return section(
        "Budgets and memory",
        "Slots: one per KV head and token. “Replayed, exact”: decided on the full cache's capture, "
        "equal to a live run; “replayed, approximate”: a live run would have computed other hidden "
        "states. Mean and peak cache: keys and values from the first cut on. " +
            (report_.methods.empty() ? std::string()
                                     : "Before it: " + bytes_text(report_.methods[0].first_bytes) +
                                           "; uncompressed at the end: " +
                                           bytes_text(report_.methods[0].full_bytes) + ". ") +
            "<b>" + html_escape(report_.memory) + "</b>",
        html_table({"", "method", "run", "keep", "asked", "granted", "held", "held %", "per layer",
                    "mean cache", "peak"},
                   "llllrrrrrrr", rows));
  }

  std::string fates() const {
    Rows rows;
    std::vector<std::string> headings = {"method", "run"};
    std::string alignment = "ll";
    for (const char letter : fate_order) {
      headings.push_back(fmt::format("{} {}", letter, fate_name(letter)));
      alignment += 'r';
    }
    headings.emplace_back("D of lost");
    headings.emplace_back("gone");
    alignment += "rr";
    std::string maps;
    each([&](int i, const ReportMethod& m) {
      std::vector<std::string> row = {name(i), m.origin};
      for (const char letter : fate_order) {
        row.push_back(grouped(m.fates.total.of(letter)));
      }
      row.push_back(percent(m.fates.total.dropped_share()));
      row.push_back(percent(m.gone_share));
      rows.push_back(row);
      maps += fmt::format("<h3>{} <span class=\"note\">{}</span></h3>\n", name(i), m.origin) +
              report::fate_map(report_, m);
    });
    return section(
        "Fates",
        "KV heads × tokens. In the maps each row is one KV head, layers from the top; "
        "brackets mark "
        "the text searched for. D: removed by a merge that folded it into nothing. Gone: E and D, "
        "whose content is in no slot.",
        html_table(headings, alignment, rows) + report::fate_legend(report_) + maps);
  }

  std::string costs() const {
    Rows rows;
    each([&](int i, const ReportMethod& m) {
      const ReportCost& cost = m.cost;
      rows.push_back(
          {name(i), m.origin, number(cost.output_error_mean), number(cost.output_error_max),
           cost.present ? fmt::format("L{} q{}", cost.worst_layer, cost.worst_query_head) : "",
           number(cost.retained_mass), number(cost.retained_mass_no_sinks),
           cost.present ? html_escape(cost.queries) : "not computed",
           !cost.present         ? ""
           : cost.seen_by_method ? "seen by the method"
                                 : "not seen"});
    });
    return section(
        "Cost",
        "Relative output error and attention mass retained, means over query heads; “no sinks” "
        "leaves out the first 4 tokens.",
        html_table({"method", "run", "error", "worst", "at", "mass", "no sinks", "queries", ""},
                   "llrrlrrll", rows));
  }

  std::string classes() const {
    if (report_.methods.empty()) {
      return "";
    }
    const auto& first = report_.methods.front().classes;
    std::vector<std::string> headings = {"method", "run"};
    std::vector<std::string> of_text = {"share of the text", ""};
    std::string alignment = "ll";
    for (std::size_t kind = 0; kind < first.size(); ++kind) {
      headings.emplace_back(token_class_name(static_cast<TokenClass>(kind)));
      of_text.push_back(percent(first[kind].of_text));
      alignment += 'r';
    }
    Rows rows = {of_text};
    each([&](int i, const ReportMethod& m) {
      std::vector<std::string> row = {name(i), m.origin};
      for (const ClassShare& share : m.classes) {
        row.push_back(percent(share.of_slots));
      }
      rows.push_back(row);
    });
    return section("What the budget buys", "Share of the held slots by class of token.",
                   html_table(headings, alignment, rows));
  }

  std::string agreement() const {
    if (report_.pairs.empty()) {
      return "";
    }
    Rows rows;
    for (const ReportPair& pair : report_.pairs) {
      const ReportMethod& a = report_.methods[static_cast<std::size_t>(pair.a)];
      const ReportMethod& b = report_.methods[static_cast<std::size_t>(pair.b)];
      const Agreement& agreed = pair.agreement;
      const bool shown = (report_.any_memory || agreed.comparable()) && !agreed.head.empty();
      rows.push_back(
          {name(pair.a), a.origin, name(pair.b), b.origin,
           shown ? number(agreed.total.jaccard(), 3) : "–",
           shown ? fmt::format("L{} h{} {:.3f}",
                               a.layers[static_cast<std::size_t>(agreed.worst_layer_row)].layer,
                               agreed.worst_kv_head,
                               agreed.at(agreed.worst_layer_row, agreed.worst_kv_head).jaccard())
                 : "–",
           agreed.remark()});
    }
    return section("Agreement", "Cells that hold a slot in both, over cells that do in either.",
                   html_table({"method", "run", "method", "run", "Jaccard", "worst head", "memory"},
                              "llllrll", rows));
  }

  std::string lost() const {
    Rows rows;
    each([&](int i, const ReportMethod& m) {
      for (const LostToken& token : m.lost) {
        rows.push_back({name(i), m.origin + (m.cost.seen_by_method ? ", queries seen" : ""),
                        fmt::format("{}", token.token), number(token.error),
                        fmt::format("{} L{} h{}", token.fate, token.layer, token.kv_head),
                        fmt::format("{}/{}", token.lost_heads, token.heads),
                        fmt::format("<code>{}<b>{}</b>{}</code>", html_escape(token.before),
                                    html_escape(token.text), html_escape(token.after)),
                        html_escape(token.why)});
      }
    });
    return rows.empty()
               ? ""
               : section(
                     "Costliest lost tokens",
                     "Error of losing the token alone, summed over layers and KV heads, and the "
                     "place that lost most.",
                     html_table(
                         {"method", "run", "token", "error", "worst at", "lost in", "text", "why"},
                         "llrrlrll", rows));
  }

  std::string checks() const {
    Rows rows;
    each([&](int i, const ReportMethod& m) {
      for (const Finding& finding : m.checks) {
        const std::string severity = severity_name(finding.severity);
        rows.push_back({fmt::format("<span class=\"{0}\">{0}</span>", severity), name(i), m.origin,
                        finding.id, html_escape(finding.text)});
      }
    });
    return section("Health checks", rows.empty() ? "Nothing found." : "",
                   rows.empty() ? ""
                                : html_table({"severity", "method", "run", "check", "finding"},
                                             "lllll", rows));
  }

  std::string found() const {
    std::string html;
    for (const FoundText& fact : report_.found) {
      const std::string heading = fmt::format("Find “{}”", html_escape(printable(fact.needle)));
      if (!fact.found) {
        html += section(heading, "Not in the captured text.", "");
        continue;
      }
      Rows rows;
      std::string strips;
      for (const FoundFate& fate : fact.fates) {
        const ReportMethod& m = report_.methods[static_cast<std::size_t>(fate.method)];
        rows.push_back({name(fate.method), m.origin,
                        fmt::format("<span class=\"{}\">{}</span>",
                                    fate.verdict == "lost"         ? "lost"
                                    : fate.verdict == "kept whole" ? "kept"
                                                                   : "warning",
                                    fate.verdict),
                        fmt::format("{}/{}", fate.whole_heads, fate.heads),
                        fmt::format("{}/{}", fate.none_heads, fate.heads),
                        !m.answer_changed   ? "unknown"
                        : *m.answer_changed ? "changed"
                                            : "unchanged",
                        m.answer ? html_escape(printable(m.answer->text)) : ""});
        strips += fmt::format("<h3>{} <span class=\"note\">{}</span></h3>\n", name(fate.method),
                              m.origin) +
                  report::token_strip(report_, m, fact.first - 24, fact.last + 24) + losses(fate);
      }
      html += section(
          heading,
          fmt::format(
              "Tokens {} to {}, {} occurrence{}. The stronger the ground, the more KV heads "
              "lost the token.{}",
              fact.first, fact.last - 1, fact.occurrences, fact.occurrences == 1 ? "" : "s",
              report_.full_answer
                  ? " Full cache answers: " + html_escape(printable(*report_.full_answer))
                  : ""),
          html_table({"method", "run", "the fact is", "heads with all of it", "with none", "answer",
                      "text"},
                     "lllrrll", rows) +
              strips);
    }
    return html;
  }

  std::string losses(const FoundFate& fate) const {
    const ReportMethod& m = report_.methods[static_cast<std::size_t>(fate.method)];
    Rows rows;
    for (const FoundToken& token : fate.tokens) {
      rows.push_back({fmt::format("{}", token.token),
                      "<code>" + html_escape(token.text) + "</code>",
                      fmt::format("{}/{}", token.held, token.heads),
                      report::lost_places(token, m.fates.kv_heads)});
    }
    return "<details><summary>layers and heads that lost it</summary>" +
           html_table({"token", "text", "held", "lost in (KV heads, fates)"}, "rlrl", rows) +
           "</details>\n";
  }

  std::string layers() const {
    std::string html;
    each([&](int i, const ReportMethod& m) {
      Rows rows;
      for (std::size_t row = 0; row < m.layers.size(); ++row) {
        for (std::size_t head = 0; head < m.layers[row].granted.size(); ++head) {
          const std::size_t place = row * m.layers[row].granted.size() + head;
          std::vector<std::string> cells = {
              fmt::format("{}", m.layers[row].layer), fmt::format("{}", head),
              grouped(m.layers[row].granted[head]), grouped(m.layers[row].held[head])};
          for (const char letter : fate_order) {
            cells.push_back(grouped(m.fates.head[place].of(letter)));
          }
          cells.push_back(place < m.head_error.size() ? number(m.head_error[place]) : "–");
          cells.push_back(place < m.head_mass.size() ? number(m.head_mass[place]) : "–");
          rows.push_back(cells);
        }
      }
      html +=
          fmt::format("<details><summary>{} <span class=\"note\">{}{}</span></summary>", name(i),
                      m.origin, m.cost.seen_by_method ? ", queries seen by the method" : "") +
          html_table({"layer", "KV head", "granted", "held", "K", "P", "T", "M", "E", "D", "S",
                      "error", "mass"},
                     "rrrrrrrrrrrrr", rows) +
          "</details>\n";
    });
    return section("Layers and heads", "", html);
  }

  std::string texts() const {
    if (report_.tokens.size() > longest_text) {
      return section(
          "Text", fmt::format("Above {} tokens the text is left to the viewer.", longest_text), "");
    }
    std::string html;
    each([&](int i, const ReportMethod& m) {
      html += fmt::format("<details{}><summary>{} <span class=\"note\">{}</span></summary>",
                          i == 0 ? " open=\"open\"" : "", name(i), m.origin) +
              report::token_strip(report_, m, 0, m.tokens) + "</details>\n";
    });
    return section("Text", "The stronger the ground, the more KV heads lost the token.", html);
  }

  const Report& report_;
};

}  // namespace

std::string to_html(const Report& report) {
  return HtmlReport(report).page();
}

}  // namespace kvscope
