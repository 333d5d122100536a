#include "loaded_model.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "kvscope/capture/output_factor.h"
#include "kvscope/core/error.h"
#include "kvscope/core/log.h"
#include "kvscope/kernels/attention_stats.h"
#include "kvscope/model/tokenizer.h"

namespace kvscope {
namespace detail {
namespace {

at::Device parse_device(const std::string& text) {
  if (text == "cpu") {
    return at::kCPU;
  }
  const bool numbered = text.rfind("cuda:", 0) == 0;
  const std::string number = numbered ? text.substr(5) : "0";
  const bool sound = !number.empty() && number.size() <= 2 &&
                     std::all_of(number.begin(), number.end(),
                                 [](char digit) { return digit >= '0' && digit <= '9'; });
  KVSCOPE_CHECK((text == "cuda" || numbered) && sound, ErrorCode::usage,
                fmt::format("unknown device '{}'", text), "--device", "use cpu, cuda or cuda:N");
  std::string why_not;
  KVSCOPE_CHECK(cuda_available(&why_not), ErrorCode::unsupported,
                fmt::format("device '{}' cannot be used: {}", text, why_not), "--device",
                "use --device cpu, or run where a CUDA device and LibTorch's CUDA libraries are");
  return {at::kCUDA, static_cast<at::DeviceIndex>(std::stoi(number))};
}

at::ScalarType parse_dtype(const std::string& text) {
  KVSCOPE_CHECK(text == "float32" || text == "bfloat16", ErrorCode::usage,
                fmt::format("unknown dtype '{}'", text), "--dtype", "use float32 or bfloat16");
  return text == "float32" ? at::kFloat : at::kBFloat16;
}

/// Runs `task(0) ... task(count - 1)` on up to `threads` threads; the first error is rethrown.
template <typename Task>
void run_tasks(int count, int threads, const Task& task) {
  std::atomic<int> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&] {
    for (int index = next++; index < count; index = next++) {
      try {
        task(index);
      } catch (...) {
        const std::lock_guard lock(failure_mutex);
        failure = failure ? failure : std::current_exception();
        next = count;
      }
    }
  };
  std::vector<std::thread> helpers;
  for (int thread = 1; thread < std::min(threads, count); ++thread) {
    helpers.emplace_back(work);
  }
  work();
  for (std::thread& helper : helpers) {
    helper.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace

LoadedModel::LoadedModel(std::shared_ptr<const ModelFile> file, const RuntimeOptions& options)
    : file_(std::move(file)), options_(options) {
  const at::NoGradGuard no_grad;
  KVSCOPE_CHECK(file_ != nullptr, ErrorCode::usage, "no model file", "Model::load",
                "open one first");
  check_shape(shape(), config().name);
  const at::Device device = parse_device(options_.device);
  const at::ScalarType dtype = parse_dtype(options_.dtype);
  KVSCOPE_CHECK(options_.threads >= 0, ErrorCode::usage,
                fmt::format("{} threads", options_.threads), "--threads", "use 0 for all cores");
  if (options_.threads == 0) {
    options_.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  at::set_num_threads(options_.threads);
  KVSCOPE_CHECK(!options_.keep_weights || device.is_cpu(), ErrorCode::unsupported,
                fmt::format("weights cannot be kept quantised on {}", options_.device), "--weights",
                "use --weights dense, or --device cpu");
  tensors_ = at::TensorOptions(dtype).device(device);
  load_layers();
  report_nonfinite();
}

void LoadedModel::load_layers() {
  const ModelShape& s = shape();
  const int threads = options_.threads;
  const WeightReader reader(*file_, device(), dtype(), options_.keep_weights);
  embedding_ = reader.matrix(-1, {{Weight::token_embedding, s.vocabulary}}, s.hidden_dim, threads);
  head_ = config().tied_embeddings
              ? embedding_
              : reader.matrix(-1, {{Weight::output, s.vocabulary}}, s.hidden_dim, threads);
  output_norm_ = {reader.vector(-1, Weight::output_norm, s.hidden_dim),
                  reader.vector(-1, Weight::output_norm_bias, s.hidden_dim, true)};
  layers_.resize(static_cast<std::size_t>(s.layers));
  factors_.resize(layers_.size());
  run_tasks(s.layers, threads, [&](int layer) {
    const at::NoGradGuard no_grad;  // the mode is per thread
    layers_[static_cast<std::size_t>(layer)] = reader.layer(layer);
  });
  file_->release();
  nonfinite_ = reader.nonfinite();
}

/// Warns of weights that are not finite, by name; refuses them if told to.
void LoadedModel::report_nonfinite() const {
  if (nonfinite_.empty()) {
    return;
  }
  constexpr std::size_t named = 8;
  std::string names;
  std::int64_t total = 0;
  for (std::size_t index = 0; index < nonfinite_.size(); ++index) {
    total += nonfinite_[index].count;
    if (index < named) {
      names += fmt::format("{}{} ({})", index == 0 ? "" : ", ", nonfinite_[index].name,
                           nonfinite_[index].count);
    }
  }
  if (nonfinite_.size() > named) {
    names += fmt::format(" and {} more tensors", nonfinite_.size() - named);
  }
  const std::string message = fmt::format("{} weights are NaN or infinite: {}", total, names);
  KVSCOPE_CHECK(!options_.strict, ErrorCode::corrupt_file, message, config().name,
                "download the model again, or run without --strict");
  log_warning(message);
}

const Tokenizer* LoadedModel::tokenizer() const {
  std::call_once(tokenizer_made_, [this] {
    try {
      tokenizer_ = file_->tokenizer();
    } catch (const Error&) {  // the prompt came as ids; whoever needs the texts has been told
      tokenizer_ = number_tokenizer(shape().vocabulary);
    }
  });
  return tokenizer_.get();
}

at::Tensor LoadedModel::output_weights(int layer) const {
  const at::NoGradGuard no_grad;
  const ModelShape& s = shape();
  return this->layer(layer)
      .output.dense()
      .view({s.hidden_dim, s.query_heads, s.head_dim})
      .permute({1, 2, 0})
      .to(at::kFloat)
      .contiguous();
}

at::Tensor LoadedModel::output_factor(int layer) const {
  const at::NoGradGuard no_grad;
  const std::lock_guard lock(factor_mutex_);
  at::Tensor& factor = factors_[static_cast<std::size_t>(layer)];
  if (factor.defined()) {
    return factor;
  }
  factor = kvscope::output_factor(output_weights(layer));
  return factor;
}

}  // namespace detail

std::shared_ptr<const Model> Model::load(std::shared_ptr<const ModelFile> file,
                                         const RuntimeOptions& options) {
  return std::make_shared<detail::LoadedModel>(std::move(file), options);
}

void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most there is; below, memory comes from the heap
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

}  // namespace kvscope
