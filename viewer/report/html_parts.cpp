#include "html_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "png_image.h"
#include "printable.h"

namespace kvscope::report {
namespace {

constexpr int widest_map = 4096;
/// From least to most lost: what a column that folds several tokens shows.
constexpr std::string_view severity = "KPTSMED";

std::uint8_t rank(char letter) {
  const std::size_t found = severity.find(letter);
  return static_cast<std::uint8_t>(found == std::string_view::npos ? severity.size() : found);
}

struct Pixels {
  std::vector<std::uint8_t> rank;
  int width = 0;
  int height = 0;
  int fold = 1;
};

Pixels map_pixels(const ReportMethod& method) {
  Pixels pixels;
  pixels.fold = (method.tokens + widest_map - 1) / widest_map;
  pixels.width = (method.tokens + pixels.fold - 1) / pixels.fold;
  pixels.height = static_cast<int>(method.fates.head.size());
  pixels.rank.assign(
      static_cast<std::size_t>(pixels.width) * static_cast<std::size_t>(pixels.height), 0);
  for (std::size_t cell = 0; cell < method.layer_letters.size(); ++cell) {
    const std::size_t row = cell / static_cast<std::size_t>(method.tokens);
    const std::size_t column =
        cell % static_cast<std::size_t>(method.tokens) / static_cast<std::size_t>(pixels.fold);
    std::uint8_t& pixel = pixels.rank[row * static_cast<std::size_t>(pixels.width) + column];
    pixel = std::max(pixel, rank(method.layer_letters[cell]));
  }
  return pixels;
}

std::string brackets(const Report& report, const ReportMethod& method, double left, double wide,
                     double top) {
  std::string marks;
  for (const FoundText& fact : report.found) {
    if (!fact.found) {
      continue;
    }
    const double first = left + wide * fact.first / method.tokens;
    const double last = left + wide * fact.last / method.tokens;
    marks += fmt::format(
        "<path class=\"mark\" d=\"M{0:.1f} {2:.1f}v-5H{1:.1f}v5\"><title>{3}</title></path>", first,
        std::max(last, first + 1), top, html_escape(fact.text));
  }
  return marks;
}

}  // namespace

const char* page_style() {
  return R"(:root{color-scheme:light dark;--ink:#1a1a1a;--page:#fff;--line:#ccc;--soft:#f3f3f3;--faint:#666}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--page:#161616;--line:#444;--soft:#222;--faint:#aaa}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:1rem}
.note{color:var(--faint)}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{cursor:pointer;background:var(--soft);position:sticky;top:0}
.r{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td:nth-child(-n+2){white-space:nowrap}
code,.strip{font-family:ui-monospace,monospace;font-size:.9em}
.strip{line-height:1.9;overflow-wrap:anywhere;white-space:pre-wrap}
.strip i{font-style:normal;border-radius:2px}
.strip u{text-decoration:underline;text-decoration-thickness:2px}
.key{display:inline-block;margin-right:1rem;white-space:nowrap}
.key b{display:inline-block;width:1em;height:1em;vertical-align:-.15em;margin-right:.35em}
svg{width:100%;height:auto;display:block}svg text{fill:var(--faint);font:10px system-ui,sans-serif}
svg image{image-rendering:pixelated}.mark{fill:none;stroke:var(--ink);stroke-width:1}
.error{color:#c33}.warning{color:#b60}.lost{color:#D55E00;font-weight:600}.kept{color:#0a8;font-weight:600}
)";
}

const char* page_script() {
  return R"(document.querySelectorAll("th").forEach(function(h){h.addEventListener("click",function(){
var t=h.closest("table"),c=h.cellIndex,b=t.tBodies[0],up=h.dataset.up!=="1";h.dataset.up=up?"1":"0";
function v(r){var s=r.cells[c].dataset.v||r.cells[c].textContent,n=parseFloat(s.replace(/,/g,""));
return h.className==="r"?(isNaN(n)?-Infinity:n):s}
Array.from(b.rows).sort(function(x,y){var p=v(x),q=v(y);return(p<q?-1:p>q?1:0)*(up?1:-1)})
.forEach(function(r){b.appendChild(r)})})});)";
}

std::string html_table(const std::vector<std::string>& headings, const std::string& alignment,
                       const std::vector<std::vector<std::string>>& rows) {
  const auto opening = [&](const char* tag, std::size_t column) {
    return alignment[column] == 'r' ? fmt::format("<{} class=\"r\">", tag)
                                    : fmt::format("<{}>", tag);
  };
  std::string html = "<div class=\"scroll\"><table><thead><tr>";
  for (std::size_t column = 0; column < headings.size(); ++column) {
    html += opening("th", column) + headings[column] + "</th>";
  }
  html += "</tr></thead><tbody>\n";
  for (const auto& row : rows) {
    html += "<tr>";
    for (std::size_t column = 0; column < row.size(); ++column) {
      html += opening("td", column) + row[column] + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string fate_legend(const Report& report) {
  FateCounts all;
  for (const ReportMethod& method : report.methods) {
    all += method.fates.total;
  }
  std::string html = "<p>";
  for (const char letter : fate_order) {
    if (all.of(letter) > 0) {
      html += fmt::format("<span class=\"key\"><b style=\"background:{}\"></b>{} {}</span>",
                          hex(fate_colour(letter, false)), letter, fate_name(letter));
    }
  }
  return html + "</p>\n";
}

std::string fate_map(const Report& report, const ReportMethod& method) {
  if (method.tokens == 0 || method.fates.head.empty()) {
    return "<p class=\"note\">no cell to show</p>\n";
  }
  const Pixels pixels = map_pixels(method);
  std::vector<Colour> palette;
  for (const char letter : severity) {
    palette.push_back(fate_colour(letter, false));
  }
  palette.push_back(fate_colour('?', false));
  const std::string png = base64(palette_png(pixels.rank, pixels.width, pixels.height, palette));
  constexpr double left = 34;
  constexpr double top = 8;
  constexpr double wide = 960;
  const double high = std::clamp(4.0 * pixels.height, 24.0, 480.0);
  std::string svg = fmt::format(
      "<svg viewBox=\"0 0 1000 {:.0f}\" role=\"img\"><title>fates of {}</title><image x=\"{}\" "
      "y=\"{}\" "
      "width=\"{}\" height=\"{:.1f}\" preserveAspectRatio=\"none\" "
      "href=\"data:image/png;base64,{}\"/>",
      top + high + 18, html_escape(method.method), left, top, wide, high, png);
  const auto layers = static_cast<int>(method.layers.size());
  const int each = std::max(1, (layers + 9) / 10);
  for (int row = 0; row < layers; row += each) {
    svg += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">L{}</text>", left - 4,
                       top + high * row / layers + 9,
                       method.layers[static_cast<std::size_t>(row)].layer);
  }
  for (int tick = 0; tick <= 8; ++tick) {
    const auto token = static_cast<int>(static_cast<std::int64_t>(method.tokens) * tick / 8);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>",
                       left + wide * tick / 8, top + high + 12,
                       tick == 0   ? "start"
                       : tick == 8 ? "end"
                                   : "middle",
                       token);
  }
  svg += brackets(report, method, left, wide, top) + "</svg>\n";
  if (pixels.fold > 1) {
    svg += fmt::format("<p class=\"note\">1 column = {} tokens: the worst fate among them</p>\n",
                       pixels.fold);
  }
  return svg;
}

std::string token_strip(const Report& report, const ReportMethod& method, int first, int last) {
  std::string html = "<p class=\"strip\">";
  last = std::min({last, static_cast<int>(report.tokens.size()), method.tokens});
  for (int token = std::max(0, first); token < last; ++token) {
    const auto at = static_cast<std::size_t>(token);
    const double lost = 1 - method.token_fates[at].kept_share();
    const bool marked =
        std::any_of(report.found.begin(), report.found.end(), [&](const FoundText& fact) {
          return fact.found && token >= fact.first && token < fact.last;
        });
    std::string text = html_escape(report.tokens[at].text);
    if (text.size() >= 2 && text.compare(text.size() - 2, 2, "\\n") == 0) {
      text += "\n";
    }
    html += fmt::format(
        "<i{}{}>{}</i>",
        lost > 0 ? fmt::format(" style=\"background:rgba(213,94,0,{:.2f})\"", 0.85 * lost) : "",
        marked ? fmt::format(" title=\"token {}: held in {} of {}\"", token,
                             method.token_fates[at].holding(), method.token_fates[at].total())
               : "",
        marked ? "<u>" + text + "</u>" : text);
  }
  return html + "</p>\n";
}

}  // namespace kvscope::report
