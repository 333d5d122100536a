#include <fmt/format.h>

#include <algorithm>

#include "attributes.h"
#include "decision_planes.h"
#include "h5.h"

namespace kvscope {
namespace {

using h5::Extent;

std::int64_t count(std::size_t size) {
  return static_cast<std::int64_t>(size);
}

DatasetSpec edge_spec(const char* name, ElementType type, Extent shape, const char* long_name) {
  DatasetSpec spec;
  spec.path = std::string("decisions/merge/") + name;
  spec.type = type;
  spec.shape = std::move(shape);
  spec.units = "1";
  spec.long_name = long_name;
  return spec;
}

/// Edges of all layers in the order of the file: event, layer, KV head.
struct EdgeColumns {
  std::vector<std::int64_t> offset;  ///< [events, layers, kv_heads + 1]
  std::vector<std::int32_t> source, target, key_row;
  std::vector<float> key_weight, value_weight, count;
};

EdgeColumns columns_of(const Decision& decision, const std::vector<std::int64_t>& first_key_row) {
  EdgeColumns columns;
  for (int event = 0; event < static_cast<int>(decision.events.size()); ++event) {
    for (std::size_t row = 0; row < decision.layers.size(); ++row) {
      const LayerDecision& layer = decision.layers[row];
      for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head) {
        columns.offset.push_back(count(columns.source.size()));
        for (const MergeEdge& edge : layer.edges) {
          if (edge.event == event && edge.kv_head == kv_head) {
            columns.source.push_back(edge.source);
            columns.target.push_back(edge.target);
            columns.key_weight.push_back(edge.key_weight);
            columns.value_weight.push_back(edge.value_weight);
            columns.count.push_back(edge.count);
            columns.key_row.push_back(
                edge.key_row < 0 ? -1
                                 : static_cast<std::int32_t>(first_key_row[row] + edge.key_row));
          }
        }
      }
      columns.offset.push_back(count(columns.source.size()));
    }
  }
  return columns;
}

std::vector<std::int64_t> key_row_offsets(const Decision& decision) {
  std::vector<std::int64_t> offsets = {0};
  for (const LayerDecision& layer : decision.layers) {
    const std::int64_t rows =
        layer.key_row_dim > 0 ? count(layer.key_rows.size()) / layer.key_row_dim : 0;
    offsets.push_back(offsets.back() + rows);
  }
  return offsets;
}

}  // namespace

void write_edges(hid_t file, const Decision& decision) {
  const bool any = std::any_of(decision.layers.begin(), decision.layers.end(),
                               [](const LayerDecision& layer) { return !layer.edges.empty(); });
  if (!any) {
    return;
  }
  const std::vector<std::int64_t> key_rows = key_row_offsets(decision);
  const EdgeColumns columns = columns_of(decision, key_rows);
  const std::int64_t edges = count(columns.source.size());
  h5::store(file,
            edge_spec("offset", ElementType::i8,
                      {count(decision.events.size()), count(decision.layers.size()),
                       decision.kv_heads + 1},
                      "row range of each event, layer and KV head"),
            columns.offset);
  h5::store(file, edge_spec("source", ElementType::i4, {edges}, "token"), columns.source);
  h5::store(file, edge_spec("target", ElementType::i4, {edges}, "token"), columns.target);
  h5::store(file, edge_spec("key_weight", ElementType::f4, {edges}, "share in the target's key"),
            columns.key_weight);
  h5::store(file,
            edge_spec("value_weight", ElementType::f4, {edges}, "share in the target's value"),
            columns.value_weight);
  h5::store(file, edge_spec("count", ElementType::f4, {edges}, "multiplicity carried over"),
            columns.count);
  if (key_rows.back() == 0) {
    return;
  }
  std::vector<float> rows;
  std::int64_t dim = 0;
  for (const LayerDecision& layer : decision.layers) {
    rows.insert(rows.end(), layer.key_rows.begin(), layer.key_rows.end());
    dim = std::max<std::int64_t>(dim, layer.key_row_dim);
  }
  h5::store(file,
            edge_spec("key_row", ElementType::f4, {key_rows.back(), dim},
                      "finished keys of targets, in the cache's frame"),
            rows);
  h5::store(file, edge_spec("key_row_index", ElementType::i4, {edges}, "row of key_row, or -1"),
            columns.key_row);
  h5::store(file,
            edge_spec("key_row_offset", ElementType::i8, {count(key_rows.size())},
                      "first row of key_row of each layer"),
            key_rows);
}

void read_edges(hid_t file, Decision& decision, std::int64_t edges, std::int64_t key_row_dim) {
  if (!h5::exists(file, "decisions/merge/source")) {
    return;
  }
  const std::int64_t layers = count(decision.layers.size());
  const std::int64_t stride = decision.kv_heads + 1;
  const auto path = [](const char* name) { return std::string("decisions/merge/") + name; };
  const auto offset =
      h5::load<std::int64_t>(file, path("offset"), {count(decision.events.size()), layers, stride});
  const auto source = h5::load<std::int32_t>(file, path("source"), {edges});
  const auto target = h5::load<std::int32_t>(file, path("target"), {edges});
  const auto key_weight = h5::load<float>(file, path("key_weight"), {edges});
  const auto value_weight = h5::load<float>(file, path("value_weight"), {edges});
  const auto carried = h5::load<float>(file, path("count"), {edges});
  std::vector<std::int32_t> key_row(source.size(), -1);
  std::vector<std::int64_t> first_row(static_cast<std::size_t>(layers) + 1, 0);
  if (key_row_dim > 0) {
    key_row = h5::load<std::int32_t>(file, path("key_row_index"), {edges});
    first_row = h5::load<std::int64_t>(file, path("key_row_offset"), {layers + 1});
    const std::int64_t rows = first_row.back();
    const auto values = h5::load<float>(file, path("key_row"), {rows, key_row_dim});
    KVSCOPE_CHECK(std::is_sorted(first_row.begin(), first_row.end()) && first_row.front() == 0,
                  ErrorCode::corrupt_file, "row offsets run backwards",
                  "/decisions/merge/key_row_offset");
    for (std::size_t row = 0; row < decision.layers.size(); ++row) {
      decision.layers[row].key_row_dim = static_cast<int>(key_row_dim);
      decision.layers[row].key_rows.assign(values.begin() + first_row[row] * key_row_dim,
                                           values.begin() + first_row[row + 1] * key_row_dim);
    }
  }
  std::size_t cell = 0;
  for (int event = 0; event < static_cast<int>(decision.events.size()); ++event) {
    for (std::size_t row = 0; row < decision.layers.size(); ++row, ++cell) {
      for (int kv_head = 0; kv_head < decision.kv_heads; ++kv_head, ++cell) {
        KVSCOPE_CHECK(
            offset[cell] >= 0 && offset[cell] <= offset[cell + 1] && offset[cell + 1] <= edges,
            ErrorCode::corrupt_file, "edge offsets run backwards or beyond the edges",
            "/decisions/merge/offset");
        for (auto edge = static_cast<std::size_t>(offset[cell]);
             edge < static_cast<std::size_t>(offset[cell + 1]); ++edge) {
          const int local =
              key_row[edge] < 0 ? -1 : key_row[edge] - static_cast<int>(first_row[row]);
          decision.layers[row].edges.push_back({kv_head, source[edge], target[edge], event,
                                                key_weight[edge], value_weight[edge], carried[edge],
                                                local});
        }
      }
    }
  }
}

void write_metrics(hid_t file, const Decision& decision) {
  const DecisionMetrics& metrics = decision.metrics;
  if (metrics.empty()) {
    return;
  }
  const std::int64_t layers = count(decision.layers.size());
  const auto store = [&](const char* name, const std::vector<float>& values, Extent shape,
                         const char* units, const char* long_name,
                         std::vector<std::string> labels) {
    if (values.empty()) {
      return;
    }
    DatasetSpec spec;
    spec.path = std::string("decisions/metrics/") + name;
    spec.shape = std::move(shape);
    spec.units = units;
    spec.long_name = long_name;
    spec.labels = std::move(labels);
    spec.queries = metrics.queries;
    const h5::Handle dataset = h5::store(file, spec, values);
    h5::set_number(dataset, "query_count", metrics.query_count);
    h5::set_number(dataset, "seen_by_method", metrics.seen_by_method ? 1 : 0);
  };
  const Extent heads = {layers, decision.query_heads};
  const std::vector<std::string> labels = {"layer", "query_head"};
  store("output_error", metrics.output_error, heads, "1",
        "relative L2 difference of the head's projected output", labels);
  store("retained_mass", metrics.retained_mass, heads, "1",
        "share of attention on tokens that hold a slot", labels);
  store("retained_mass_no_sinks", metrics.retained_mass_no_sinks, heads, "1",
        "retained mass with the first tokens left out", labels);
  store("lost_error", metrics.lost_error, {layers, decision.kv_heads, decision.tokens}, "1",
        "relative output error of losing this token alone", {"layer", "kv_head", "token"});
}

void read_metrics(hid_t file, Decision& decision) {
  const std::string first = "decisions/metrics/output_error";
  if (!h5::exists(file, first)) {
    return;
  }
  const std::int64_t layers = count(decision.layers.size());
  const auto load = [&](const char* name, const Extent& shape) {
    const std::string path = std::string("decisions/metrics/") + name;
    return h5::exists(file, path) ? h5::load<float>(file, path, shape) : std::vector<float>{};
  };
  const Extent heads = {layers, decision.query_heads};
  decision.metrics.output_error = load("output_error", heads);
  decision.metrics.retained_mass = load("retained_mass", heads);
  decision.metrics.retained_mass_no_sinks = load("retained_mass_no_sinks", heads);
  decision.metrics.lost_error = load("lost_error", {layers, decision.kv_heads, decision.tokens});
  const h5::Handle dataset = h5::open_dataset(file, first);
  decision.metrics.queries = h5::get_text(dataset, "queries");
  decision.metrics.query_count = static_cast<int>(h5::get_number(dataset, "query_count", 0));
  decision.metrics.seen_by_method = h5::get_number(dataset, "seen_by_method", 0) != 0;
}

}  // namespace kvscope
