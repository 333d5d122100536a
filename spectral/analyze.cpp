#include "kvscope/spectral/analyze.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "lapack.h"
#include "tables.h"

namespace kvscope {
namespace {

using spectral::MatrixSpectrum;
using spectral::projections;

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

/// All matrices, [layers, projections], taken in order by the workers; each is one thread's work
/// alone, so the result does not depend on how many there are.
class Analysis {
 public:
  Analysis(const ModelFile& model, const std::vector<int>& layers, const SpectralOptions& options)
      : model_(model),
        layers_(layers),
        options_(options),
        matrices_(layers.size() * projections),
        left_(layers.size(), projections) {}

  std::vector<MatrixSpectrum> run() {
    const std::size_t most = std::max<std::size_t>(matrices_.size(), 1);
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
    return std::move(matrices_);
  }

 private:
  void work() {
    try {
      const spectral::SingleThreaded single;
      for (std::size_t task = next_++; task < matrices_.size() && !stop_; task = next_++) {
        const std::size_t row = task / projections;
        const auto layout =
            spectral::layout_of(static_cast<int>(task % projections), model_.config().shape);
        matrices_[task] = spectral::matrix_spectrum(model_, layers_[row], layout);
        finished(row);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      if (!failure_) {
        failure_ = std::current_exception();
      }
    }
  }

  void finished(std::size_t row) {
    const std::lock_guard lock(mutex_);
    if (--left_[row] == 0) {
      ++layers_done_;
      if (options_.progress && !stop_) {
        options_.progress(layers_done_, static_cast<int>(layers_.size()));
      }
    }
  }

  const ModelFile& model_;
  const std::vector<int>& layers_;
  const SpectralOptions& options_;
  std::vector<MatrixSpectrum> matrices_;
  std::vector<int> left_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  int layers_done_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

Spectrum analyze_weights(const ModelFile& model, const SpectralOptions& options) {
  const ModelConfig& config = model.config();
  check_shape(config.shape, config.name);
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
  const std::vector<MatrixSpectrum> matrices = Analysis(model, spectrum.layers, options).run();
  spectral::fill_tables(matrices, config.shape, spectrum);
  spectral::fill_asymmetry(options.seed, spectrum);
  return spectrum;
}

}  // namespace kvscope
