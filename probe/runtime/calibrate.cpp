#include "kvscope/runtime/calibrate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "forward.h"
#include "kvscope/core/error.h"
#include "query_filters.h"
#include "rotation.h"

namespace kvscope {
namespace detail {
namespace {

constexpr int default_window = 4096;

/// Float64 sums over tokens of one layer's vectors.
struct BandSums {
  at::Tensor real, imaginary, absolute;  ///< [heads, bands]
  at::Tensor vector;                     ///< [heads, head_dim]
  at::Tensor norm;                       ///< [heads]

  /// Adds vectors [heads, rows, head_dim] of which the first 2 * bands channels rotate.
  void add(const at::Tensor& vectors, std::int64_t bands) {
    const at::Tensor wide = vectors.to(at::kDouble);
    const at::Tensor first = wide.narrow(2, 0, bands);
    const at::Tensor second = wide.narrow(2, bands, bands);
    const auto plus = [](at::Tensor& sum, const at::Tensor& part) {
      sum = sum.defined() ? sum.add(part) : part;
    };
    plus(real, first.sum(1));
    plus(imaginary, second.sum(1));
    plus(absolute, at::sqrt(first.square().add(second.square())).sum(1));
    plus(vector, wide.sum(1));
    plus(norm, at::linalg_vector_norm(wide, 2, {2}).sum(1));
  }
};

/// What every layer's sums become in the file: means over `tokens`.
class Arrays {
 public:
  Arrays(Calibration& calibration, std::string group, std::string head_axis)
      : calibration_(calibration), group_(std::move(group)), head_axis_(std::move(head_axis)) {}

  void add(const BandSums& sums, std::int64_t tokens) {
    const auto count = static_cast<double>(tokens);
    const at::Tensor real = sums.real.div(count);
    const at::Tensor imaginary = sums.imaginary.div(count);
    const at::Tensor absolute = sums.absolute.div(count);
    const at::Tensor centre = at::sqrt(real.square().add(imaginary.square()));
    const char* unit = "of the vector";
    put("mean_real", real, unit, "mean over tokens, first channel of the band", "E[Re q_f]");
    put("mean_imaginary", imaginary, unit, "mean over tokens, second channel of the band",
        "E[Im q_f]");
    put("mean_abs", absolute, unit, "mean length in the band", "E|q_f|");
    put("concentration", centre.div(absolute.clamp_min(1e-30)).clamp_max(1.0), "1",
        "mean resultant length of the band", "|E[q_f]| / E|q_f|");
    put("head_concentration",
        at::linalg_vector_norm(sums.vector, 2, {1}).div(sums.norm.clamp_min(1e-30)).clamp_max(1.0),
        "1", "mean resultant length of the whole head", "|E q| / E|q|");
  }

  /// One layer's [heads, numbers] or [heads].
  void put(const char* name, const at::Tensor& layer, const char* units, const char* long_name,
           const char* formula, const char* last_axis = "band") {
    CalibrationArray& array = calibration_.arrays[group_ + "/" + name];
    const at::Tensor host = layer.to(at::kCPU, at::kFloat).contiguous();
    if (array.shape.empty()) {
      array.shape = {0};
      array.axes = {"layer", head_axis_};
      for (const std::int64_t size : host.sizes()) {
        array.shape.push_back(size);
      }
      if (host.dim() == 2) {
        array.axes.emplace_back(last_axis);
      }
      array.units = units;
      array.long_name = long_name;
      array.formula = formula;
    }
    ++array.shape[0];
    array.values.insert(array.values.end(), host.const_data_ptr<float>(),
                        host.const_data_ptr<float>() + host.numel());
  }

 private:
  Calibration& calibration_;
  std::string group_;
  std::string head_axis_;
};

/// 16 hex digits over the ids (FNV-1a).
std::string hash_of(std::span<const std::int32_t> ids) {
  std::uint64_t hash = 14695981039346656037u;
  for (const std::int32_t id : ids) {
    for (int byte = 0; byte < 4; ++byte) {
      hash = (hash ^ ((static_cast<std::uint32_t>(id) >> (8 * byte)) & 0xFF)) * 1099511628211u;
    }
  }
  return fmt::format("{:016x}", hash);
}

class Calibrator {
 public:
  Calibrator(const LoadedModel& model, const CalibrateOptions& options, std::int64_t total)
      : model_(model),
        options_(options),
        filters_(model.shape().layers, total),
        queries_(static_cast<std::size_t>(model.shape().layers)),
        keys_(queries_.size()) {}

  void read(std::span<const std::int32_t> ids, std::int64_t done, std::int64_t total) {
    const ModelShape& shape = model_.shape();
    filters_.next_piece(static_cast<std::int64_t>(ids.size()));
    std::vector<std::int32_t> positions(ids.size());
    for (std::size_t row = 0; row < ids.size(); ++row) {
      positions[row] = static_cast<std::int32_t>(row);
    }
    std::vector<LayerState> layers;
    for (int layer = 0; layer < shape.layers; ++layer) {
      layers.emplace_back(shape.kv_heads, shape.head_dim, static_cast<int>(ids.size()),
                          model_.tensors());
    }
    PassWatch watch;
    watch.stop = options_.stop;
    PassRotations rotations(shape, positions, static_cast<int>(ids.size()), model_.device());
    watch.layer = [&](const LayerPass& pass) { look(pass, rotations); };
    watch.keys_pre_rope = true;
    watch.progress = [&](int layer) {
      if (options_.progress) {
        const auto part = static_cast<std::int64_t>(ids.size()) * (layer + 1) / shape.layers;
        options_.progress(done + part, total);
      }
    };
    PassInput input{ids, positions};
    input.prompt_tokens = static_cast<int>(ids.size());
    run_pass(model_, layers, input, watch);
    tokens_ += static_cast<std::int64_t>(ids.size());
  }

  void finish(Calibration& calibration) const {
    Arrays queries(calibration, "queries", "query_head");
    Arrays keys(calibration, "keys", "kv_head");
    for (std::size_t layer = 0; layer < queries_.size(); ++layer) {
      queries.add(queries_[layer], tokens_);
      keys.add(keys_[layer], tokens_);
    }
    Arrays filters(calibration, "queries", "kv_head");
    for (int layer = 0; layer < model_.shape().layers; ++layer) {
      filters.put("filter", filters_.filter(layer, model_.shape().kv_heads), "1",
                  "main direction of the rotated queries, turned against most of them",
                  "mean over the group of -sign(u1) v1", "channel");
    }
    calibration.tokens = tokens_;
  }

 private:
  /// Queries come rotated; what entered the rotation is got back up to rounding.
  void look(const LayerPass& pass, PassRotations& rotations) {
    const auto layer = static_cast<std::size_t>(pass.layer);
    const ModelShape& shape = model_.shape();
    const std::int64_t bands = (shape.rope.dims > 0 ? shape.rope.dims : shape.head_dim) / 2;
    queries_[layer].add(rotate(pass.queries, rotations.of(pass.layer), true), bands);
    keys_[layer].add(pass.keys_pre_rope, bands);
    filters_.add(pass.layer, pass.queries);
  }

  const LoadedModel& model_;
  const CalibrateOptions& options_;
  QueryFilters filters_;
  std::vector<BandSums> queries_;
  std::vector<BandSums> keys_;
  std::int64_t tokens_ = 0;
};

/// Ids [first, last) of the corpus, behind a BOS where there is one.
std::vector<std::int32_t> piece_of(std::span<const std::int32_t> ids, std::size_t first,
                                   std::size_t last, std::int32_t bos) {
  std::vector<std::int32_t> piece;
  if (bos >= 0) {
    piece.push_back(bos);
  }
  piece.insert(piece.end(), ids.begin() + static_cast<std::ptrdiff_t>(first),
               ids.begin() + static_cast<std::ptrdiff_t>(last));
  return piece;
}

void check_corpus(const Model& model, std::span<const std::int32_t> ids,
                  const CalibrateOptions& options) {
  KVSCOPE_CHECK(static_cast<std::int64_t>(ids.size()) >= options.least_tokens, ErrorCode::usage,
                fmt::format("the corpus has {} tokens; fewer than {} say little about a head's "
                            "queries",
                            ids.size(), options.least_tokens),
                "calibrate", "give it more text, of the kind the model will see");
  const auto bad = std::find_if(ids.begin(), ids.end(), [&](std::int32_t id) {
    return id < 0 || id >= model.shape().vocabulary;
  });
  KVSCOPE_CHECK(bad == ids.end(), ErrorCode::usage,
                fmt::format("token {} has id {}", bad - ids.begin(), *bad), "calibrate",
                fmt::format("ids are 0 to {}", model.shape().vocabulary - 1));
}

}  // namespace
}  // namespace detail

Calibration calibrate(const std::shared_ptr<const Model>& model, std::span<const std::int32_t> ids,
                      const CalibrateOptions& options) {
  const at::NoGradGuard no_grad;
  const auto loaded = std::dynamic_pointer_cast<const detail::LoadedModel>(model);
  KVSCOPE_CHECK(loaded != nullptr, ErrorCode::usage, "no loaded model", "calibrate",
                "use Model::load");
  detail::check_corpus(*model, ids, options);
  const int context = model->config().context_length;
  const int window =
      options.window > 0 ? options.window : std::min(detail::default_window, context);
  const int head = options.bos >= 0 ? 1 : 0;
  KVSCOPE_CHECK(window <= context && window > head, ErrorCode::usage,
                fmt::format("a window of {} tokens; the model's context is {}", window, context),
                "calibrate", fmt::format("use 2 to {} tokens", context));
  const std::size_t room = static_cast<std::size_t>(window - head);
  const std::size_t pieces = (ids.size() + room - 1) / room;
  const auto total =
      static_cast<std::int64_t>(ids.size() + pieces * static_cast<std::size_t>(head));
  detail::Calibrator calibrator(*loaded, options, total);
  std::int64_t done = 0;
  for (std::size_t piece = 0; piece < pieces; ++piece) {
    const std::vector<std::int32_t> text = detail::piece_of(
        ids, ids.size() * piece / pieces, ids.size() * (piece + 1) / pieces, options.bos);
    calibrator.read(text, done, total);
    done += static_cast<std::int64_t>(text.size());
  }
  Calibration calibration;
  calibration.model_name = model->config().name;
  calibration.model_hash = model->file().hash();
  calibration.corpus_hash = detail::hash_of(ids);
  calibration.layers = model->shape().layers;
  calibration.query_heads = model->shape().query_heads;
  calibration.kv_heads = model->shape().kv_heads;
  calibration.head_dim = model->shape().head_dim;
  calibration.window = window;
  calibrator.finish(calibration);
  return calibration;
}

}  // namespace kvscope
