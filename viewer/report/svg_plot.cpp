#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "html_parts.h"
#include "printable.h"
#include "spectrum_parts.h"

namespace kvscope::report {
namespace {

constexpr double width = 640;
constexpr double height = 300;
constexpr double left = 64;
constexpr double right = 10;
constexpr double top = 10;
constexpr double bottom = 40;

/// Okabe and Ito's hues, for q, k, v, o and what is neither.
const char* colour_of(int index) {
  static constexpr const char* colours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"};
  return colours[static_cast<std::size_t>(index) % std::size(colours)];
}

/// One axis: what is drawn lies between `low` and `high`.
class Axis {
 public:
  Axis(bool logarithmic, double from, double to) : log_(logarithmic), from_(from), to_(to) {}

  void take(double value) {
    if (std::isfinite(value) && (!log_ || value > 0)) {
      low_ = std::min(low_, value);
      high_ = std::max(high_, value);
    }
  }
  void settle() {
    if (!(low_ <= high_)) {
      low_ = log_ ? 1 : 0;
      high_ = log_ ? 10 : 1;
    }
    if (low_ == high_) {
      low_ = log_ ? low_ / 2 : low_ - 0.5;
      high_ = log_ ? high_ * 2 : high_ + 0.5;
    }
  }
  double at(double value) const {
    const double share =
        log_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
    return from_ + share * (to_ - from_);
  }
  bool shows(double value) const {
    return std::isfinite(value) && (!log_ || value > 0) && value >= low_ && value <= high_;
  }
  std::vector<double> ticks() const {
    std::vector<double> found;
    if (log_) {
      const double decades = std::log10(high_ / low_);
      const double every = std::max(1.0, std::ceil(decades / 6));
      for (double power = std::ceil(std::log10(low_)); power <= std::log10(high_) + 1e-9;
           power += every) {
        found.push_back(std::pow(10.0, power));
      }
      return found;
    }
    const double rough = (high_ - low_) / 5;
    const double unit = std::pow(10.0, std::floor(std::log10(rough)));
    const double step = rough / unit < 1.5 ? unit : rough / unit < 3.5 ? 2 * unit : 5 * unit;
    for (double tick = std::ceil(low_ / step) * step; tick <= high_ + step * 1e-9; tick += step) {
      found.push_back(std::abs(tick) < step * 1e-9 ? 0 : tick);
    }
    return found;
  }
  double low() const { return low_; }
  double high() const { return high_; }

 private:
  bool log_;
  double from_;
  double to_;
  double low_ = std::numeric_limits<double>::infinity();
  double high_ = -std::numeric_limits<double>::infinity();
};

std::string frame(const Axis& x, const Axis& y, const SpectrumPlot& plot) {
  std::string svg;
  for (const double tick : x.ticks()) {
    svg += fmt::format(
        "<path class=\"grid\" d=\"M{0:.1f} {1}V{2}\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4:.4g}</text>",
        x.at(tick), top, height - bottom, height - bottom + 13, tick);
  }
  for (const double tick : y.ticks()) {
    svg += fmt::format(
        "<path class=\"grid\" d=\"M{1} {0:.1f}H{2}\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:.4g}</text>",
        y.at(tick), left, width - right, left - 5, y.at(tick) + 3, tick);
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                     (left + width - right) / 2, height - 6, html_escape(plot.x_label));
  svg += fmt::format(
      "<text transform=\"translate(11 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
      (top + height - bottom) / 2, html_escape(plot.y_label));
  return svg;
}

std::string drawn(const PlotCurve& curve, const Axis& x, const Axis& y) {
  std::string path;
  const double base = y.shows(0) ? y.at(0) : height - bottom;
  const char* colour = colour_of(curve.colour);
  for (std::size_t i = 0; i < curve.curve.x.size(); ++i) {
    if (!x.shows(curve.curve.x[i]) || !y.shows(curve.curve.y[i])) {
      continue;
    }
    const double px = x.at(curve.curve.x[i]);
    const double py = y.at(curve.curve.y[i]);
    if (curve.kind == CurveKind::line) {
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", px, py);
    } else if (curve.kind == CurveKind::stems) {
      path += fmt::format("M{:.1f} {:.1f}V{:.1f}", px + curve.colour, base, py);
    } else {
      path += fmt::format("M{:.1f} {:.1f}h0", px, py);
    }
  }
  const double stroke = curve.kind == CurveKind::points ? 4 : curve.faint ? 1 : 1.5;
  return fmt::format(
      "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linecap=\"round\"{}>"
      "<title>{}</title></path>",
      path, colour, stroke, curve.faint ? " stroke-opacity=\".45\"" : "",
      html_escape(curve.curve.label));
}

std::string key(const SpectrumPlot& plot) {
  std::string html = "<p class=\"note\">";
  for (const PlotCurve& curve : plot.curves) {
    if (!curve.faint) {
      html += fmt::format("<span class=\"key\"><b style=\"background:{}\"></b>{}</span>",
                          colour_of(curve.colour), html_escape(curve.curve.label));
    }
  }
  return html + "</p>\n";
}

std::string curves_svg(const SpectrumPlot& plot) {
  Axis x(plot.log_x, left, width - right);
  Axis y(plot.log_y, height - bottom, top);
  for (const PlotCurve& curve : plot.curves) {
    std::for_each(curve.curve.x.begin(), curve.curve.x.end(), [&](double v) { x.take(v); });
    std::for_each(curve.curve.y.begin(), curve.curve.y.end(), [&](double v) { y.take(v); });
    if (curve.kind == CurveKind::stems) {
      y.take(0);
    }
  }
  for (const PlotLevel& level : plot.levels) {
    y.take(level.low);
    y.take(level.high);
  }
  x.settle();
  y.settle();
  std::string svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", width,
                                height, html_escape(plot.title));
  svg += frame(x, y, plot);
  for (const PlotLevel& level : plot.levels) {
    svg += fmt::format(
        "<path d=\"M{} {:.1f}H{}\" stroke=\"{}\" stroke-dasharray=\"4 3\" fill=\"none\">"
        "<title>{}</title></path>",
        left, y.at(level.low), width - right, colour_of(level.colour), html_escape(level.label));
  }
  if (plot.identity) {
    const double low = std::max(x.low(), y.low());
    const double high = std::min(x.high(), y.high());
    if (low < high) {
      svg += fmt::format("<path class=\"grid\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>", x.at(low),
                         y.at(low), x.at(high), y.at(high));
    }
  }
  for (const PlotCurve& curve : plot.curves) {
    svg += drawn(curve, x, y);
  }
  return svg + "</svg>\n" + key(plot);
}

/// Blue below, white at, red above the middle of the range.
std::string cell_colour(double value, double low, double high) {
  if (!std::isfinite(value)) {
    return "#888";
  }
  const double share = high > low ? (value - low) / (high - low) : 0.5;
  const double red = share < 0.5 ? 2 * share : 1;
  const double blue = share < 0.5 ? 1 : 2 - 2 * share;
  return fmt::format("rgb({:.0f},{:.0f},{:.0f})", 40 + 215 * red, 60 + 195 * std::min(red, blue),
                     40 + 215 * blue);
}

std::string grids_svg(const SpectrumPlot& plot) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  int columns = 0;
  int rows = 1;
  for (const PlotGrid& grid : plot.grids) {
    columns += grid.columns + 1;
    rows = std::max(rows, grid.rows);
    for (const double value : grid.values) {
      if (std::isfinite(value)) {
        low = std::min(low, value);
        high = std::max(high, value);
      }
    }
  }
  const double cell = std::min((width - left) / std::max(columns, 1), 360.0 / rows);
  std::string svg = fmt::format("<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\">",
                                width, rows * cell + 20, html_escape(plot.title));
  double at = left;
  for (const PlotGrid& grid : plot.grids) {
    svg += fmt::format("<text x=\"{:.1f}\" y=\"11\">{}</text>", at, html_escape(grid.label));
    for (int i = 0; i < grid.rows * grid.columns; ++i) {
      const double value = grid.values[static_cast<std::size_t>(i)];
      svg += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
          "fill=\"{}\"><title>{} "
          "{}: {:.3g}</title></rect>",
          at + i % grid.columns * cell, 15 + i / grid.columns * cell, cell, cell,
          cell_colour(value, low, high), i / grid.columns, i % grid.columns, value);
    }
    at += (grid.columns + 1) * cell;
  }
  return svg + fmt::format(
                   "</svg>\n<p class=\"note\">{:.3g} (blue) to {:.3g} (red); {} across, {} "
                   "down</p>\n",
                   low, high, html_escape(plot.x_label), html_escape(plot.y_label));
}

}  // namespace

std::string svg_plot(const SpectrumPlot& plot) {
  const std::string title = "<h3>" + html_escape(plot.title) + "</h3>\n";
  if (plot.empty()) {
    return title + "<p class=\"note\">" + html_escape(plot.missing) + "</p>\n";
  }
  return title + (plot.grids.empty() ? curves_svg(plot) : grids_svg(plot));
}

}  // namespace kvscope::report
