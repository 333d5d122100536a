#include "kvscope/spectral/homogeneity.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include "homogeneity_tables.h"
#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "kvscope/storage/capture_reader.h"
#include "lapack.h"
#include "tables.h"
#include "token_statistics.h"
#include "weights.h"

namespace kvscope {
namespace {

using spectral::AlignedDoubles;
using spectral::cells;
using spectral::HeadHomogeneity;
using spectral::LayerHomogeneity;
using spectral::TokenRows;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::string dataset_of(int layer, const char* name) {
  return fmt::format("layers/{:03}/{}", layer, name);
}

/// Rows of all heads of one projection, [heads, tokens, channels].
struct Rows {
  AlignedDoubles values;
  int heads = 0;
  int first = 0;  ///< token of the first row
  int tokens = 0;
  int channels = 0;

  double* of(int head) { return values.data() + cells(head * tokens, channels); }
  TokenRows view(int head, int skip) {
    const int from = std::clamp(skip - first, 0, tokens);
    return {of(head) + cells(from, channels), tokens - from, channels};
  }
};

Rows read_rows(const CaptureReader& capture, const std::string& dataset, int first, int tokens) {
  const std::vector<std::int64_t> shape = capture.shape(dataset);
  KVSCOPE_CHECK(shape.size() == 3, ErrorCode::missing_data,
                "the capture holds no queries, keys and values", "/" + dataset,
                "capture again with --profile qkv or full");
  Rows rows;
  rows.heads = static_cast<int>(shape[0]);
  rows.first = first;
  rows.tokens = static_cast<int>(std::min<std::int64_t>(shape[1], tokens - first));
  rows.channels = static_cast<int>(shape[2]);
  const std::vector<std::int64_t> count = {shape[0], rows.tokens, shape[2]};
  std::vector<float> values(static_cast<std::size_t>(shape[0] * shape[2]) *
                            static_cast<std::size_t>(rows.tokens));
  capture.read(dataset, {0, 0, 0}, count, std::span<float>(values));
  rows.values = AlignedDoubles(values.size());
  std::copy(values.begin(), values.end(), rows.values.data());
  return rows;
}

/// All heads of a token side by side, [tokens, heads * channels].
Rows side_by_side(const Rows& rows) {
  Rows joined;
  joined.heads = 1;
  joined.first = rows.first;
  joined.tokens = rows.tokens;
  joined.channels = rows.heads * rows.channels;
  joined.values = AlignedDoubles(rows.values.size());
  for (int head = 0; head < rows.heads; ++head) {
    for (int t = 0; t < rows.tokens; ++t) {
      const double* from = rows.values.data() + cells(head * rows.tokens + t, rows.channels);
      std::copy(from, from + rows.channels,
                joined.values.data() + cells(t, joined.channels) + head * rows.channels);
    }
  }
  return joined;
}

/// One layer: reads its tensors, finds the bases, measures before and after RoPE.
class LayerTask {
 public:
  LayerTask(const ModelFile& model, const CaptureReader& capture, const HomogeneityOptions& options,
            int layer, std::uint64_t seed)
      : model_(model),
        capture_(capture),
        options_(options),
        layer_(layer),
        seed_(seed),
        rope_(model.config().shape.rope_of(layer)) {
    weights_options_.gain_folded = false;
    weights_options_.with_bias = false;
  }

  LayerHomogeneity run() {
    LayerHomogeneity result;
    const int tokens = capture_.index().prompt_tokens;
    for (int p = 0; p < 3; ++p) {
      const spectral::ProjectionLayout layout = spectral::layout_of(p, model_.config().shape);
      const spectral::ProjectionWeights weights = basis_weights(layout);
      Rows before;
      Rows after;
      if (p == 0) {
        after = read_rows(capture_, dataset_of(layer_, "queries"), capture_.index().first_query,
                          tokens);
        before = queries_before(after);
      } else if (p == 1) {
        before = read_rows(capture_, dataset_of(layer_, "keys_pre_rope"), 0, tokens);
        if (options_.post_rope) {
          after = read_rows(capture_, dataset_of(layer_, "keys"), 0, tokens);
        }
      } else {
        before = read_rows(capture_, dataset_of(layer_, "values"), 0, tokens);
      }
      KVSCOPE_CHECK(before.heads == layout.heads && before.channels == layout.head_dim,
                    ErrorCode::usage, "the capture has other heads than the model",
                    dataset_of(layer_, "values"), "capture with this model");
      const auto place = static_cast<std::size_t>(p);
      bases(weights, layout);
      measure(before, layout, weights, result.before[place]);
      if (options_.post_rope) {
        if (p == 2) {
          result.after[place] = result.before[place];  // values are not rotated
        } else {
          measure(after, layout, weights, result.after[place]);
        }
      }
      for (int head = 0; p != 2 && head < layout.heads; ++head) {
        result.rotated[place].push_back(spectral::rotated_first_order(
            before.view(head, options_.skip_first), rope_.inverse_frequency));
      }
    }
    return result;
  }

 private:
  /// Squared Frobenius norm of each head of W diag(g), g the gain of the norm before it; NaN where
  /// a norm stands behind: then the output's energy says nothing about the weights.
  static std::vector<double> folded_energy(const spectral::ProjectionWeights& weights,
                                           const spectral::ProjectionLayout& layout) {
    std::vector<double> energy(static_cast<std::size_t>(layout.heads), nan);
    if (!weights.usable() || !weights.sliced(layout) || !weights.row_factor.empty()) {
      return energy;
    }
    for (int head = 0; head < layout.heads; ++head) {
      const spectral::WeightView view = weights.head(layout, head);
      AlignedDoubles wide(cells(view.rows, view.columns));
      spectral::widen(view, 0, view.rows, 0, view.columns, wide.data());
      double sum = 0;
      for (std::size_t i = 0; i < wide.size(); ++i) {
        sum += wide[i] * wide[i];
      }
      energy[static_cast<std::size_t>(head)] = std::ldexp(sum, 2 * weights.exponent);
    }
    return energy;
  }

  /// W with the gain of the norm behind it, which the captured rows have; the norm's own scalar
  /// cancels in a cosine.
  spectral::ProjectionWeights basis_weights(const spectral::ProjectionLayout& layout) {
    SpectralOptions options = weights_options_;
    options.gain_folded = true;
    spectral::ProjectionWeights weights = spectral::load_weights(model_, layer_, layout, options);
    folded_energy_ = folded_energy(weights, layout);
    weights.column_factor.clear();
    return weights;
  }

  /// Stored after RoPE; positions and frequencies are known, so the rotation is undone.
  Rows queries_before(const Rows& after) const {
    Rows before;
    before.heads = after.heads;
    before.first = after.first;
    before.tokens = after.tokens;
    before.channels = after.channels;
    before.values = AlignedDoubles(after.values.size());
    std::copy(after.values.data(), after.values.data() + after.values.size(), before.values.data());
    const bool known = rope_.growth == RopeGrowth::fixed ||
                       capture_.index().prompt_tokens <= rope_.original_context;
    if (!known) {  // the frequencies of this run depend on its length
      std::fill(before.values.data(), before.values.data() + before.values.size(), nan);
      return before;
    }
    for (int head = 0; head < before.heads; ++head) {
      spectral::rotate_back(before.of(head), before.tokens, before.channels,
                            capture_.tokens().position.data() + before.first,
                            rope_.inverse_frequency, rope_.attention_factor);
    }
    return before;
  }

  void bases(const spectral::ProjectionWeights& weights, const spectral::ProjectionLayout& layout) {
    head_bases_.clear();
    layer_basis_ = {};
    if (!weights.usable() || !weights.sliced(layout)) {
      return;
    }
    for (int head = 0; head < layout.heads; ++head) {
      AlignedDoubles g = gram(weights.head(layout, head), spectral::GramSide::rows);
      spectral::mirror(g, layout.head_dim);
      head_bases_.push_back(spectral::symmetric_eigen(g, layout.head_dim));
    }
    if (weights.rows <= options_.largest_layer_basis) {
      AlignedDoubles g = gram(weights.view(), spectral::GramSide::rows);
      spectral::mirror(g, weights.rows);
      layer_basis_ = spectral::symmetric_eigen(g, weights.rows);
    }
  }

  void measure(Rows& rows, const spectral::ProjectionLayout& layout,
               const spectral::ProjectionWeights& weights, HeadHomogeneity& result) const {
    for (int head = 0; head < layout.heads; ++head) {
      const TokenRows view = rows.view(head, options_.skip_first);
      const bool known = static_cast<std::size_t>(head) < head_bases_.size() &&
                         !head_bases_[static_cast<std::size_t>(head)].values.empty();
      const AlignedDoubles any(known ? 0 : cells(view.channels, view.channels));
      spectral::TokenStatistics s = spectral::token_statistics(
          view, known ? head_bases_[static_cast<std::size_t>(head)].vectors : any,
          seed_ + static_cast<std::uint64_t>(head));
      if (!known) {
        for (auto* list : {&s.contribution, &s.energy, &s.persistence, &s.mean_square_share}) {
          std::fill(list->begin(), list->end(), nan);
        }
      }
      result.gain.push_back(s.mean_square / folded_energy_[static_cast<std::size_t>(head)]);
      result.lags.emplace_back();
      for (const int lag : options_.lags) {
        result.lags.back().push_back(spectral::lagged_cosine(view, lag));
      }
      result.heads.push_back(std::move(s));
    }
    Rows joined = side_by_side(rows);
    const bool known = !layer_basis_.values.empty();
    result.layer = spectral::mode_statistics(joined.view(0, options_.skip_first),
                                             layer_basis_.vectors, known ? weights.rows : 0);
    const TokenRows first = rows.view(0, 0);
    const int sinks = std::clamp(options_.skip_first - rows.first, 0, first.tokens);
    result.skipped_cosine =
        sinks > 1
            ? spectral::mode_statistics({joined.of(0), sinks, joined.channels}, {}, 0).cos_mean
            : nan;
  }

  const ModelFile& model_;
  const CaptureReader& capture_;
  const HomogeneityOptions& options_;
  int layer_;
  std::uint64_t seed_;
  RopeParameters rope_;
  SpectralOptions weights_options_;
  std::vector<spectral::EigenPairs> head_bases_;
  spectral::EigenPairs layer_basis_;
  std::vector<double> folded_energy_;  ///< [heads] of the projection at hand
};

void check_same_model(const ModelFile& model, const CaptureReader& capture,
                      const Spectrum& spectrum) {
  const ModelShape& ours = model.config().shape;
  const ModelShape& theirs = capture.index().shape;
  KVSCOPE_CHECK(capture.index().model_hash == model.hash(), ErrorCode::usage,
                fmt::format("the capture is of another model ('{}')", capture.index().model_name),
                capture.index().path,
                "capture with this model, or name the model it was made with");
  require_all_heads(capture.index());
  KVSCOPE_CHECK(ours.query_heads == theirs.query_heads && ours.kv_heads == theirs.kv_heads &&
                    ours.head_dim == theirs.head_dim && ours.hidden_dim == theirs.hidden_dim,
                ErrorCode::usage, "the capture has other heads than the model",
                capture.index().path);
  KVSCOPE_CHECK(spectrum.model_hash == model.hash(), ErrorCode::usage,
                "the spectrum is of another model", spectrum.model_name);
}

}  // namespace

void add_homogeneity(const ModelFile& model, const CaptureReader& capture,
                     const HomogeneityOptions& options, Spectrum& spectrum) {
  check_same_model(model, capture, spectrum);
  const std::vector<int>& captured = capture.index().layers;
  std::vector<LayerHomogeneity> results(spectrum.layers.size());
  std::vector<std::size_t> tasks;
  for (std::size_t row = 0; row < spectrum.layers.size(); ++row) {
    if (std::find(captured.begin(), captured.end(), spectrum.layers[row]) != captured.end()) {
      tasks.push_back(row);
    }
  }
  KVSCOPE_CHECK(!tasks.empty(), ErrorCode::missing_data,
                "the capture holds none of the analysed layers", capture.index().path,
                "capture these layers, or choose others with --layers");
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::exception_ptr failure;
  int done = 0;
  const auto work = [&] {
    try {
      const spectral::SingleThreaded single;
      for (std::size_t task = next++; task < tasks.size() && !stop; task = next++) {
        const int layer = spectrum.layers[tasks[task]];
        const auto seed = options.seed + 1000 * static_cast<std::uint64_t>(layer);
        results[tasks[task]] = LayerTask(model, capture, options, layer, seed).run();
        const std::lock_guard lock(mutex);
        ++done;
        if (options.progress && !stop) {
          options.progress(done, static_cast<int>(tasks.size()));
        }
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      stop = true;
      failure = failure ? failure : std::current_exception();
    }
  };
  std::vector<std::thread> workers;
  const auto count = static_cast<std::size_t>(std::max(options.threads, 1));
  for (std::size_t i = 0; i < std::min(count, tasks.size()); ++i) {
    workers.emplace_back(work);
  }
  for (std::thread& worker : workers) {
    worker.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
  const spectral::CorpusInfo info = {options.corpus, options.skip_first, options.lags, &capture};
  spectral::fill_homogeneity(results, info, options.post_rope, spectrum);
}

}  // namespace kvscope
