#include <fmt/format.h>

#include <cmath>

#include "html_parts.h"
#include "kvscope/report/formats.h"
#include "printable.h"
#include "spectrum_parts.h"
#include "text_table.h"

namespace kvscope {
namespace {

using report::html_escape;
using report::number;

std::string layers_table(const Spectrum& s) {
  std::vector<std::vector<std::string>> rows;
  const auto projections = s.projections.size();
  for (std::size_t at = 0; at < s.layers.size() * projections; ++at) {
    const auto cell = [&](const char* metric, int digits) {
      const SpectrumTable* table = s.find(std::string("metrics/layer/") + metric);
      return table == nullptr || at >= table->values.size() ? std::string("–")
                                                            : number(table->values[at], digits);
    };
    rows.push_back({fmt::format("{}", s.layers[at / projections]), s.projections[at % projections],
                    cell("sigma_max", 2), cell("stable_rank", 1), cell("stable_rank_rel", 2),
                    cell("participation_ratio", 1), cell("participation_ratio_rel", 2),
                    cell("erank_energy", 1), cell("erank_energy_rel", 2),
                    at < s.message.size() ? html_escape(s.message[at]) : ""});
  }
  return report::html_table(
      {"layer", "W", "sigma_max", "stable rank", "rel", "PR", "rel", "erank", "rel", "problem"},
      "rlrrrrrrrl", rows);
}

std::string claims_html(const Spectrum& s) {
  std::vector<std::vector<std::string>> rows;
  for (const SpectrumClaim& claim : s.claims) {
    rows.push_back({html_escape(claim.verdict), html_escape(claim.statement),
                    number(claim.statistic, 3), number(claim.low, 3), number(claim.high, 3),
                    std::isnan(claim.p) ? "–" : fmt::format("{:.2g}", claim.p),
                    fmt::format("{}", claim.count)});
  }
  return report::html_table({"verdict", "claim", "statistic", "from", "to", "p", "n"}, "llrrrrr",
                            rows);
}

}  // namespace

std::string to_html(const Spectrum& spectrum) {
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>Spectra of " +
      html_escape(spectrum.model_name) + "</title>\n<style>" + report::page_style() +
      ".grid{stroke:var(--line);fill:none}.plots{display:grid;grid-template-columns:repeat(auto-"
      "fit,"
      "minmax(30rem,1fr));gap:1rem 2rem}</style></head><body>\n<h1>Spectra of " +
      html_escape(spectrum.model_name) + "</h1>\n";
  html += fmt::format(
      "<p>{} layers, {} query heads, {} KV heads of {}, stored as {}. Weights, not "
      "activations, unless tokens are named; rel: over a Gaussian matrix of the "
      "same shape.</p>\n",
      spectrum.layers.size(), spectrum.query_heads, spectrum.kv_heads, spectrum.head_dim,
      html_escape(spectrum.weights_dtype));
  if (!spectrum.claims.empty()) {
    html += "<h2>Claims</h2>\n" + claims_html(spectrum);
  }
  html += "<h2>Pictures</h2>\n<div class=\"plots\">\n";
  const int middle = static_cast<int>(spectrum.layers.size()) / 2;
  if (!spectrum.layers.empty()) {
    for (const SpectrumPlot& plot : spectrum_plots(spectrum, {middle, 0})) {
      html += "<section>" + report::svg_plot(plot) + "</section>\n";
    }
  }
  html += "</div>\n<h2>Layers</h2>\n" + layers_table(spectrum);
  return html + "<script>" + report::page_script() + "</script></body></html>\n";
}

}  // namespace kvscope
