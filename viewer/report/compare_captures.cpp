#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <sstream>
#include <tuple>

#include "compare_values.h"
#include "kvscope/report/compare.h"

namespace kvscope {
namespace {

using Extent = std::vector<std::int64_t>;
using report::ValueDifference;

/// The order in which a forward pass makes what a capture holds of a layer.
constexpr std::string_view stages[] = {"residual_in", "keys_pre_rope",    "queries",   "keys",
                                       "values",      "logits_attention", "attention", "lse",
                                       "entropy",     "output_factor"};

std::size_t stage_of(const std::string& dataset) {
  const std::string name = dataset.substr(dataset.rfind('/') + 1);
  return static_cast<std::size_t>(std::find(std::begin(stages), std::end(stages), name) -
                                  std::begin(stages));
}

/// A part of both files that is held against each other: one layer's plane, or a whole dataset.
struct Plane {
  std::string dataset;
  int layer = -1;           ///< true index
  std::int64_t row_a = -1;  ///< on the layer axis; -1 = there is none
  std::int64_t row_b = -1;
  std::size_t axis = 0;  ///< the layer axis
};

std::vector<std::string> labels_of(const CaptureReader& reader, const std::string& dataset) {
  std::vector<std::string> labels;
  std::stringstream text(reader.attribute(dataset, "axes"));
  for (std::string label; std::getline(text, label, ',');) {
    labels.push_back(label);
  }
  return labels;
}

class CaptureComparison {
 public:
  CaptureComparison(const CaptureReader& a, const CaptureReader& b, Tolerance tolerance)
      : a_(a), b_(b), tolerance_(tolerance) {}

  Comparison run() {
    facts();
    tokens();
    const std::vector<Plane> order = planes();
    for (const Plane& plane : order) {
      compare(plane);
    }
    return std::move(result_);
  }

 private:
  void fact(const char* name, const std::string& left, const std::string& right) {
    if (left != right) {
      result_.differences.push_back({name, fmt::format("{} | {}", left, right)});
    }
  }

  void facts() {
    const CaptureIndex& a = a_.index();
    const CaptureIndex& b = b_.index();
    const auto number = [](auto value) { return fmt::format("{}", value); };
    fact("model hash", a.model_hash, b.model_hash);
    fact("architecture", a.architecture, b.architecture);
    fact("weights", a.weights_dtype, b.weights_dtype);
    fact("computed in", a.compute_dtype, b.compute_dtype);
    fact("device", a.device, b.device);
    fact("method", a.method, b.method);
    fact("budget", a.budget, b.budget);
    fact("profile", profile_name(a.profile), profile_name(b.profile));
    fact("layers", fmt::format("{}", fmt::join(a.layers, ",")),
         fmt::format("{}", fmt::join(b.layers, ",")));
    fact("windows", fmt::format("{}", fmt::join(a.windows, ",")),
         fmt::format("{}", fmt::join(b.windows, ",")));
    fact("prompt tokens", number(a.prompt_tokens), number(b.prompt_tokens));
    fact("context tokens", number(a.context_tokens), number(b.context_tokens));
    fact("decode steps", number(a.steps), number(b.steps));
    fact("first stored query", number(a.first_query), number(b.first_query));
    fact("state", number(a.state), number(b.state));
  }

  void tokens() {
    const TokenTable& a = a_.tokens();
    const TokenTable& b = b_.tokens();
    const int both = std::min(a.size(), b.size());
    Difference found{"tokens", "", -1, 0, std::max(a.size(), b.size())};
    for (int token = 0; token < both; ++token) {
      const auto at = static_cast<std::size_t>(token);
      if (a.id[at] == b.id[at] && a.position[at] == b.position[at]) {
        continue;
      }
      if (found.count++ == 0) {
        found.first = fmt::format("token {}: id {} | {}, position {} | {}", token, a.id[at],
                                  b.id[at], a.position[at], b.position[at]);
      }
    }
    found.count += found.total - both;
    if (found.count > 0) {
      found.first = found.first.empty()
                        ? fmt::format("token {}: only in {}", both, a.size() > b.size() ? "A" : "B")
                        : found.first;
      result_.differences.push_back(found);
    }
  }

  void only_in(const CaptureReader& one, const CaptureReader& other, const char* name) {
    std::string names;
    std::int64_t count = 0;
    for (const std::string& dataset : one.datasets()) {
      if (!other.has(dataset)) {
        names += ++count <= 6 ? (count > 1 ? ", " : "") + dataset : "";
      }
    }
    if (count > 0) {
      result_.differences.push_back({fmt::format("datasets only in {}", name),
                                     count > 6 ? names + ", ..." : names, -1, count, 0});
    }
  }

  /// What both files have, in the order of the run.
  std::vector<Plane> planes() {
    only_in(a_, b_, "A");
    only_in(b_, a_, "B");
    std::vector<Plane> list;
    for (const std::string& dataset : a_.datasets()) {
      const bool table = dataset.starts_with("axes/") || dataset.starts_with("tokens/") ||
                         dataset.starts_with("status/");
      if (table || dataset.ends_with("_ns") || !b_.has(dataset)) {
        continue;
      }
      add_planes(dataset, list);
    }
    const auto key = [](const Plane& plane) {
      const bool step = plane.dataset.starts_with("steps/");
      return std::tuple(step, plane.layer < 0 ? 1 << 20 : plane.layer, stage_of(plane.dataset),
                        plane.dataset);
    };
    std::stable_sort(list.begin(), list.end(),
                     [&](const Plane& left, const Plane& right) { return key(left) < key(right); });
    return list;
  }

  void add_planes(const std::string& dataset, std::vector<Plane>& list) const {
    if (dataset.starts_with("layers/")) {
      list.push_back({dataset, std::stoi(dataset.substr(7))});
      return;
    }
    const std::vector<std::string> labels = labels_of(a_, dataset);
    const auto axis = std::find(labels.begin(), labels.end(), "layer");
    if (axis == labels.end()) {
      list.push_back({dataset});
      return;
    }
    const std::vector<int>& layers = a_.index().layers;
    const std::vector<int>& others = b_.index().layers;
    for (std::size_t row = 0; row < layers.size(); ++row) {
      const auto found = std::find(others.begin(), others.end(), layers[row]);
      if (found != others.end()) {
        list.push_back({dataset, layers[row], static_cast<std::int64_t>(row),
                        found - others.begin(), static_cast<std::size_t>(axis - labels.begin())});
      }
    }
  }

  void compare(const Plane& plane) {
    Extent extent = a_.shape(plane.dataset);
    Extent other = b_.shape(plane.dataset);
    if (plane.row_a >= 0) {
      extent[plane.axis] = other[plane.axis] = 1;
    }
    if (plane.dataset.starts_with("steps/")) {  // rows beyond are not committed
      const std::int64_t steps = std::min(a_.index().steps, b_.index().steps);
      extent[0] = std::min(extent[0], steps);
      other[0] = std::min(other[0], steps);
    }
    if (a_.index().prompt_tokens == b_.index().prompt_tokens) {  // more planned is no difference
      const std::vector<std::string> labels = labels_of(a_, plane.dataset);
      for (std::size_t axis = 0; axis < std::min(extent.size(), labels.size()); ++axis) {
        if (labels[axis] == "token" && axis < other.size()) {
          extent[axis] = other[axis] = std::min(extent[axis], other[axis]);
        }
      }
    }
    const std::string what =
        plane.row_a < 0 ? plane.dataset : fmt::format("{}, layer {}", plane.dataset, plane.layer);
    ++result_.compared;
    if (extent != other) {
      result_.differences.push_back(
          {what, fmt::format("shape [{}] | [{}]", fmt::join(extent, ", "), fmt::join(other, ", ")),
           plane.layer});
      return;
    }
    ValueDifference found(tolerance_);
    read_both(plane, extent, found);
    if (found.any()) {
      result_.differences.push_back(found.difference(what, plane.layer));
    }
  }

  void read_both(const Plane& plane, const Extent& extent, ValueDifference& found) const {
    std::int64_t row = 1;
    for (std::size_t axis = 1; axis < extent.size(); ++axis) {
      row *= extent[axis];
    }
    if (extent.empty() || row == 0) {
      return;
    }
    constexpr std::int64_t cells = std::int64_t{1} << 20;
    const std::int64_t rows =
        plane.row_a >= 0 && plane.axis == 0 ? 1 : std::max<std::int64_t>(1, cells / row);
    std::vector<float> left;
    std::vector<float> right;
    for (std::int64_t first = 0; first < extent[0]; first += rows) {
      Extent count = extent;
      count[0] = std::min(rows, extent[0] - first);
      Extent from(extent.size(), 0);
      from[0] = first;
      left.resize(static_cast<std::size_t>(count[0] * row));
      right.resize(left.size());
      Extent at = from;
      Extent other = from;
      if (plane.row_a >= 0) {
        at[plane.axis] = plane.row_a;
        other[plane.axis] = plane.row_b;
      }
      a_.read(plane.dataset, at, count, std::span<float>(left));
      b_.read(plane.dataset, other, count, std::span<float>(right));
      found.add(left, right, [&](std::size_t cell) {
        return name_of(plane, from, count, static_cast<std::int64_t>(cell), left[cell],
                       right[cell]);
      });
    }
  }

  /// "query_head 2, token 17: 0.5 | 0.25".
  std::string name_of(const Plane& plane, const Extent& from, const Extent& count,
                      std::int64_t cell, float left, float right) const {
    const std::vector<std::string> labels = labels_of(a_, plane.dataset);
    Extent index(count.size());
    for (std::size_t axis = count.size(); axis-- > 0;) {
      index[axis] = from[axis] + cell % count[axis];
      cell /= count[axis];
    }
    std::vector<std::string> parts;
    for (std::size_t axis = 0; axis < index.size(); ++axis) {
      if (plane.row_a < 0 || axis != plane.axis) {
        parts.push_back(
            fmt::format("{} {}", axis < labels.size() ? labels[axis] : "index", index[axis]));
      }
    }
    return fmt::format("{}: {:g} | {:g}", fmt::join(parts, ", "), left, right);
  }

  const CaptureReader& a_;
  const CaptureReader& b_;
  Tolerance tolerance_;
  Comparison result_;
};

}  // namespace

Comparison compare_captures(const CaptureReader& a, const CaptureReader& b, Tolerance tolerance) {
  return CaptureComparison(a, b, tolerance).run();
}

}  // namespace kvscope
