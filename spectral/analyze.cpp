#include "kvscope/spectral/analyze.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "checkpoint.h"
#include "device.h"
#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "lapack.h"
#include "tables.h"

namespace kvscope {
namespace {

using spectral::LayerResult;
using spectral::projections;

constexpr int tasks_per_layer = projections + 1;  // the matrices, then their products

std::vector<int> chosen_layers(const std::vector<int>& wanted, int layers) {
  std::vector<int> chosen = wanted;
  if (chosen.empty()) {
    for (int layer = 0; layer < layers; ++layer) {
      chosen.push_back(layer);
    }
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  for (const int layer : chosen) {
    KVSCOPE_CHECK(layer >= 0 && layer < layers, ErrorCode::usage,
                  fmt::format("the model has no layer {}", layer), "layers",
                  fmt::format("choose from 0 to {}", layers - 1));
  }
  return chosen;
}

void check_projections(const std::vector<std::string>& wanted) {
  for (const std::string& name : wanted) {
    KVSCOPE_CHECK(std::find(spectral::projection_names.begin(), spectral::projection_names.end(),
                            name) != spectral::projection_names.end(),
                  ErrorCode::usage, fmt::format("there is no projection '{}'", name), "projections",
                  "choose from q, k, v, o");
  }
}

/// What the results of a layer depend on.
std::string key_of(const ModelFile& model, const SpectralOptions& o) {
  return fmt::format(
      "model={} projections={} seed={} gain={} bias={} heads={} products={} vectors={} ov={} "
      "fits={} "
      "fast={} "
      "top={} gap={} device={} blas={}",
      model.hash(), fmt::join(o.projections, ","), o.seed, o.gain_folded, o.with_bias, o.heads,
      o.products, o.vectors, o.ov_eigenvalues, o.fits, o.fast, o.top, o.gap_tolerance, o.device,
      spectral::blas_name());
}

/// All tasks, [layers, tasks_per_layer], taken in order by the workers; each is one thread's work
/// alone, so the result does not depend on how many there are.
class Analysis {
 public:
  Analysis(const ModelFile& model, const std::vector<int>& layers, const SpectralOptions& options)
      : model_(model),
        layers_(layers),
        options_(options),
        solver_(spectral::solver_for(options.device)),
        checkpoint_(options.checkpoint,
                    options.checkpoint.empty() ? std::string() : key_of(model, options)),
        results_(layers.size()),
        left_(layers.size(), tasks_per_layer),
        resumed_(layers.size(), false) {
    std::map<int, LayerResult> kept = checkpoint_.take();
    for (std::size_t row = 0; row < layers.size(); ++row) {
      const auto found = kept.find(layers[row]);
      if (found != kept.end()) {
        results_[row] = std::move(found->second);
        ++layers_done_;
        resumed_[row] = true;
      }
    }
  }

  std::vector<LayerResult> run() {
    const spectral::SingleThreaded single;
    const std::size_t most = std::max<std::size_t>(tasks(), 1);
    const std::size_t count =
        std::min(static_cast<std::size_t>(std::max(options_.threads, 1)), most);
    std::vector<std::thread> workers;
    for (std::size_t i = 0; i < count; ++i) {
      workers.emplace_back([this] { work(); });
    }
    for (std::thread& worker : workers) {
      worker.join();
    }
    if (failure_) {
      std::rethrow_exception(failure_);
    }
    return std::move(results_);
  }

 private:
  std::size_t tasks() const { return layers_.size() * tasks_per_layer; }

  void work() {
    try {
      const spectral::SingleThreaded single;
      for (std::size_t task = next_++; task < tasks() && !stop_; task = next_++) {
        const std::size_t row = task / tasks_per_layer;
        if (!resumed_[row]) {
          perform(row, static_cast<int>(task % tasks_per_layer));
          finished(row);
        }
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      if (!failure_) {
        failure_ = std::current_exception();
      }
    }
  }

  bool chosen(int p) const {
    const auto& wanted = options_.projections;
    return wanted.empty() ||
           std::find(wanted.begin(), wanted.end(),
                     spectral::projection_names[static_cast<std::size_t>(p)]) != wanted.end();
  }

  void perform(std::size_t row, int part) {
    LayerResult& result = results_[row];
    if (part == projections) {
      if (options_.products) {
        result.products = spectral::layer_products(model_, layers_[row], options_);
      }
      return;
    }
    spectral::MatrixSpectrum& matrix = result.matrices[static_cast<std::size_t>(part)];
    if (!chosen(part)) {
      matrix.status = SpectrumStatus::skipped_by_user;
      matrix.message = "not asked for";
      return;
    }
    matrix = spectral::matrix_spectrum(model_, layers_[row],
                                       spectral::layout_of(part, model_.config().shape), options_,
                                       {*solver_, spectral::eigen_solver()});
  }

  void finished(std::size_t row) {
    const std::lock_guard lock(mutex_);
    if (--left_[row] == 0) {
      checkpoint_.add(layers_[row], results_[row]);
      ++layers_done_;
      if (options_.progress && !stop_) {
        options_.progress(layers_done_, static_cast<int>(layers_.size()));
      }
    }
  }

  const ModelFile& model_;
  const std::vector<int>& layers_;
  const SpectralOptions& options_;
  std::shared_ptr<const spectral::EigenSolver> solver_;
  spectral::Checkpoint checkpoint_;
  std::vector<LayerResult> results_;
  std::vector<int> left_;      ///< tasks of a layer not yet done
  std::vector<bool> resumed_;  ///< layers that were in the checkpoint
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  int layers_done_ = 0;
  std::exception_ptr failure_;
};

/// Root attributes of specs/spectral.md 8.2 that are no size.
void describe(const ModelFile& model, const SpectralOptions& options, Spectrum& spectrum) {
  const ModelConfig& config = model.config();
  const int first = spectrum.layers.empty() ? 0 : spectrum.layers.front();
  const auto flag = [](bool value) { return value ? 1.0 : 0.0; };
  spectrum.attributes[""] = {
      {"architecture", config.architecture},
      {"n_layers", static_cast<double>(config.shape.layers)},
      {"rope_theta", config.shape.rope.base},
      {"has_qkv_bias", flag(model.has(Weight::bq, first) || model.has(Weight::bk, first) ||
                            model.has(Weight::bv, first))},
      {"has_qk_norm", flag(model.has(Weight::q_norm, first) || model.has(Weight::k_norm, first))},
      {"view", std::string(options.gain_folded ? "gain_folded" : "raw")},
      {"bias_mode", std::string(options.with_bias ? "include" : "exclude")},
      {"mode", std::string(options.fast ? "fast" : "exact")},
      {"compute_dtype", std::string("float64")},
      {"solver", std::string(spectral::solver_for(options.device)->name())},
      {"blas", std::string(spectral::blas_name())},
      {"gap_tol", options.gap_tolerance},
      {"seed", static_cast<double>(options.seed)}};
}

}  // namespace

Spectrum analyze_weights(const ModelFile& model, const SpectralOptions& options) {
  const ModelConfig& config = model.config();
  check_shape(config.shape, config.name);
  check_projections(options.projections);
  Spectrum spectrum;
  spectrum.model_name = config.name;
  spectrum.model_hash = model.hash();
  spectrum.weights_dtype = config.weights_dtype;
  spectrum.query_heads = config.shape.query_heads;
  spectrum.kv_heads = config.shape.kv_heads;
  spectrum.head_dim = config.shape.head_dim;
  spectrum.hidden_dim = config.shape.hidden_dim;
  spectrum.layers = chosen_layers(options.layers, config.shape.layers);
  spectrum.projections.assign(spectral::projection_names.begin(), spectral::projection_names.end());
  describe(model, options, spectrum);
  const std::vector<LayerResult> results = Analysis(model, spectrum.layers, options).run();
  spectral::fill_tables(results, config.shape, options, spectrum);
  if (options.products) {
    spectral::fill_products(results, options, spectrum);
  }
  spectral::fill_asymmetry(options.seed, spectrum);
  return spectrum;
}

}  // namespace kvscope
