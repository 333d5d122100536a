#pragma once

#include <string>
#include <vector>

#include "kvscope/core/spectrum.h"
#include "kvscope/scene/spectra.h"

namespace kvscope {

/// How the points of a curve are drawn.
enum class CurveKind { line, points, stems };

struct PlotCurve {
  Curve curve;
  CurveKind kind = CurveKind::line;
  int colour = 0;      ///< index of a palette: 0 q, 1 k, 2 v, 3 o, 4 and up for others
  bool faint = false;  ///< a null, a baseline or a quantile beside the curve it belongs to
};

/// A matrix of cells, rows from the top; NaN = missing.
struct PlotGrid {
  std::string label;
  int rows = 0;
  int columns = 0;
  std::vector<double> values;
};

/// A line across the plot at one height, or a band between two (high > low).
struct PlotLevel {
  std::string label;
  double low = 0;
  double high = 0;
  int colour = 0;
};

/// One of the twelve pictures of specs/spectral.md 8.1, as data.
struct SpectrumPlot {
  std::string name;   ///< stable, e.g. "eigenvalues"
  std::string title;  ///< with the layer or head it shows
  std::string x_label;
  std::string y_label;
  bool log_x = false;
  bool log_y = false;
  bool identity = false;  ///< draw y = x
  std::vector<PlotCurve> curves;
  std::vector<PlotGrid> grids;  ///< instead of curves
  std::vector<PlotLevel> levels;
  std::string missing;  ///< why it is empty, or ""

  bool empty() const { return curves.empty() && grids.empty(); }
};

/// What a picture of one layer or head shows.
struct SpectrumSelection {
  int row = 0;      ///< index into Spectrum::layers
  int kv_head = 0;  ///< queries show the first query head of its group
};

/// All twelve in the order of the specification: eigenvalues, head_map, energy, contributions,
/// asymmetry, predictions, data_and_weights, persistence, adjacency, products, key_alignment, rope.
/// Those a spectrum cannot show are there, empty, with the reason. Throws Error{usage} for a row or
/// head that is not there.
std::vector<SpectrumPlot> spectrum_plots(const Spectrum& spectrum,
                                         const SpectrumSelection& selection);

}  // namespace kvscope
