#include "decision_planes.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "attributes.h"
#include "h5.h"

namespace kvscope {
namespace {

using h5::Extent;

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

std::int64_t count(std::size_t size) {
  return static_cast<std::int64_t>(size);
}

DatasetSpec make_spec(const std::string& name, ElementType type, Extent shape, const char* units,
                      const char* long_name, std::vector<std::string> labels = {}) {
  DatasetSpec spec;
  spec.path = "decisions/" + name;
  spec.type = type;
  spec.shape = std::move(shape);
  spec.units = units;
  spec.long_name = long_name;
  spec.labels = std::move(labels);
  return spec;
}

const std::vector<std::string> plane_labels = {"layer", "kv_head", "token"};
const std::vector<std::string> head_labels = {"layer", "query_head"};

Extent plane_shape(const Decision& decision) {
  return {count(decision.layers.size()), decision.kv_heads, decision.tokens};
}

/// All layers of one per-layer vector, end to end.
template <typename T, typename Get>
std::vector<T> join(const Decision& decision, Get get) {
  std::vector<T> all;
  for (const LayerDecision& layer : decision.layers) {
    const auto& part = get(layer);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

std::vector<std::uint8_t> kept_bits(const Decision& decision) {
  const std::size_t row_bytes = (static_cast<std::size_t>(decision.tokens) + 7) / 8;
  std::vector<std::uint8_t> bits(decision.layers.size() *
                                 static_cast<std::size_t>(decision.kv_heads) * row_bytes);
  std::size_t row = 0;
  for (const LayerDecision& layer : decision.layers) {
    for (int kv_head = 0; kv_head < layer.kv_heads; ++kv_head, ++row) {
      for (int token = 0; token < layer.tokens; ++token) {
        if (layer.removed_at[layer.cell(kv_head, token)] == alive) {
          bits[row * row_bytes + static_cast<std::size_t>(token) / 8] |=
              static_cast<std::uint8_t>(1u << (token % 8));
        }
      }
    }
  }
  return bits;
}

void write_nibbles(hid_t file, const Decision& decision) {
  std::vector<std::uint8_t> nibbles;
  std::vector<std::int64_t> removed;
  for (const LayerDecision& layer : decision.layers) {
    for (std::size_t cell = 0; cell < layer.fate.size(); ++cell) {
      nibbles.push_back(
          static_cast<std::uint8_t>(static_cast<unsigned>(layer.fate[cell]) |
                                    (static_cast<unsigned>(layer.reason[cell]) << 4)));
      removed.push_back(layer.removed_at[cell] == alive ? -1
                                                        : std::int64_t{layer.removed_at[cell]});
    }
  }
  h5::store(
      file,
      make_spec("fate", ElementType::u1, plane_shape(decision), "1",
                "low nibble fate: 0 holds a slot, 1 merged, 2 evicted, 3 dropped in a merge, 4 "
                "skipped; high nibble reason: 0 score, 1 sink, 2 recent, 3 head floor, 4 within "
                "budget, 5 threshold, 6 rule, 7 observation window, 8 merger declined",
                plane_labels),
      nibbles);
  std::vector<std::int32_t> events(removed.begin(), removed.end());
  h5::store(file,
            make_spec("removed_at", ElementType::i4, plane_shape(decision), "event",
                      "event at which the token lost its slot, -1 = alive", plane_labels),
            events);
}

}  // namespace

void write_axes(hid_t file, const Decision& decision) {
  const auto axis = [file](const char* name, const std::vector<std::int32_t>& values) {
    DatasetSpec spec;
    spec.path = std::string("axes/") + name;
    spec.type = ElementType::i4;
    spec.shape = {count(values.size())};
    h5::store(file, spec, values);
  };
  const auto counting = [](int size) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(size));
    std::iota(values.begin(), values.end(), 0);
    return values;
  };
  std::vector<std::int32_t> layers;
  for (const LayerDecision& layer : decision.layers) {
    layers.push_back(layer.layer);
  }
  axis("layer", layers);
  axis("query_head", counting(decision.query_heads));
  axis("kv_head", counting(decision.kv_heads));
  axis("token", counting(decision.tokens));
}

void read_axes(hid_t file, Decision& decision) {
  const Extent extent = h5::extent(h5::open_dataset(file, "axes/layer"), "axes/layer");
  KVSCOPE_CHECK(extent.size() == 1 && extent[0] <= (1 << 16), ErrorCode::corrupt_file,
                "the axis of layers is too long", "/axes/layer");
  for (const std::int32_t layer : h5::load<std::int32_t>(file, "axes/layer", extent)) {
    LayerDecision empty;
    empty.layer = layer;
    empty.kv_heads = decision.kv_heads;
    empty.tokens = decision.tokens;
    decision.layers.push_back(empty);
  }
}

void write_events(hid_t file, const Decision& decision) {
  std::vector<std::int64_t> rows;
  for (std::size_t event = 0; event < decision.events.size(); ++event) {
    const DecisionEvent& cut = decision.events[event];
    rows.insert(rows.end(), {count(event), cut.step, cut.tokens_seen, 0, cut.wall_ns, -1});
  }
  h5::store(file,
            make_spec("events", ElementType::i8, {count(decision.events.size()), 6}, "1",
                      "event, step, tokens seen, layer group, wall time in ns, score row"),
            rows);
}

void read_events(hid_t file, Decision& decision, std::int64_t events) {
  const auto rows = h5::load<std::int64_t>(file, "decisions/events", {events, 6});
  for (std::size_t row = 0; row + 6 <= rows.size(); row += 6) {
    KVSCOPE_CHECK(rows[row + 1] >= 0 && rows[row + 1] < (1 << 30) && rows[row + 2] >= 0 &&
                      rows[row + 2] <= decision.tokens,
                  ErrorCode::corrupt_file, "an event lies outside the run", "/decisions/events");
    decision.events.push_back(
        {static_cast<int>(rows[row + 1]), static_cast<int>(rows[row + 2]), rows[row + 4]});
  }
}

void write_planes(hid_t file, const Decision& decision) {
  const std::int64_t layers = count(decision.layers.size());
  const std::int64_t heads = decision.kv_heads;
  write_nibbles(file, decision);
  h5::store(file,
            make_spec("kept_bits", ElementType::u1, {1, layers, heads, (decision.tokens + 7) / 8},
                      "1", "1 = holds a slot after the last event; lowest bit = lowest token"),
            kept_bits(decision));
  h5::store(file,
            make_spec("granted", ElementType::i4, {layers, heads}, "slots",
                      "slots granted to the head", {"layer", "kv_head"}),
            join<std::int32_t>(
                decision, [](const LayerDecision& l) -> const auto& { return l.granted; }));
  std::vector<float> cuts;
  for (const LayerDecision& layer : decision.layers) {
    for (const Cut& cut : layer.cut) {
      cuts.insert(cuts.end(), {cut.granted, cut.last_kept, cut.first_lost});
    }
  }
  h5::store(
      file,
      make_spec("cut", ElementType::f4, {1, layers, heads, 3}, "slots, score, score",
                "granted slots, score of the last kept, of the first lost, at the last event"),
      cuts);
  const std::size_t cells =
      static_cast<std::size_t>(decision.kv_heads * std::int64_t{decision.tokens});
  if (!decision.layers.empty() && !decision.layers.front().scores.empty()) {
    std::vector<float> scores;
    for (const LayerDecision& layer : decision.layers) {
      scores.insert(scores.end(), layer.scores.begin(), layer.scores.end());
      scores.resize(scores.size() + (layer.scores.empty() ? cells : 0), nan_value);
    }
    h5::store(file,
              make_spec("score", ElementType::f4, {1, layers, heads, decision.tokens}, "by method",
                        "score at the last event, NaN where a rule decided",
                        {"event", "layer", "kv_head", "token"}),
              scores);
  }
  if (!decision.layers.empty() && !decision.layers.front().terms.empty()) {
    const std::size_t terms = decision.term_names.size();
    std::vector<float> all(terms * decision.layers.size() * cells, nan_value);
    for (std::size_t row = 0; row < decision.layers.size(); ++row) {
      for (std::size_t term = 0; term < terms && !decision.layers[row].terms.empty(); ++term) {
        std::copy_n(decision.layers[row].terms.begin() + static_cast<std::ptrdiff_t>(term * cells),
                    cells,
                    all.begin() +
                        static_cast<std::ptrdiff_t>((term * decision.layers.size() + row) * cells));
      }
    }
    h5::store(file,
              make_spec("terms", ElementType::f4, {1, count(terms), layers, heads, decision.tokens},
                        "by method", "score terms, named by the root attribute term_names",
                        {"event", "term", "layer", "kv_head", "token"}),
              all);
  }
}

void read_planes(hid_t file, Decision& decision) {
  const std::int64_t layers = count(decision.layers.size());
  const std::int64_t heads = decision.kv_heads;
  const std::size_t cells = static_cast<std::size_t>(heads * decision.tokens);
  const auto nibbles = h5::load<std::uint8_t>(file, "decisions/fate", plane_shape(decision));
  const auto removed = h5::load<std::int32_t>(file, "decisions/removed_at", plane_shape(decision));
  const auto granted = h5::load<std::int32_t>(file, "decisions/granted", {layers, heads});
  const auto cuts = h5::load<float>(file, "decisions/cut", {1, layers, heads, 3});
  std::vector<float> scores;
  if (h5::exists(file, "decisions/score")) {
    scores = h5::load<float>(file, "decisions/score", {1, layers, heads, decision.tokens});
  }
  const std::size_t terms = decision.term_names.size();
  std::vector<float> term_values;
  if (h5::exists(file, "decisions/terms")) {
    term_values =
        h5::load<float>(file, "decisions/terms", {1, count(terms), layers, heads, decision.tokens});
  }
  for (std::size_t row = 0; row < decision.layers.size(); ++row) {
    LayerDecision& layer = decision.layers[row];
    for (std::size_t cell = row * cells; cell < (row + 1) * cells; ++cell) {
      layer.fate.push_back(static_cast<Fate>(nibbles[cell] & 0xF));
      layer.reason.push_back(static_cast<Reason>(nibbles[cell] >> 4));
      layer.removed_at.push_back(removed[cell] < 0 ? alive
                                                   : static_cast<std::uint32_t>(removed[cell]));
    }
    for (std::int64_t head = 0; head < heads; ++head) {
      const auto at = static_cast<std::size_t>(static_cast<std::int64_t>(row) * heads + head);
      layer.granted.push_back(granted[at]);
      layer.cut.push_back({cuts[3 * at], cuts[3 * at + 1], cuts[3 * at + 2]});
    }
    const auto first = static_cast<std::ptrdiff_t>(row * cells);
    if (!scores.empty()) {
      layer.scores.assign(scores.begin() + first,
                          scores.begin() + first + static_cast<std::ptrdiff_t>(cells));
    }
    for (std::size_t term = 0; term < terms && !term_values.empty(); ++term) {
      const auto begin = term_values.begin() +
                         static_cast<std::ptrdiff_t>((term * decision.layers.size() + row) * cells);
      layer.terms.insert(layer.terms.end(), begin, begin + static_cast<std::ptrdiff_t>(cells));
    }
  }
}

}  // namespace kvscope
