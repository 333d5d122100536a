// What a capture costs a decode step, what the code of captures costs when nothing is captured, and
// whether the writer keeps up with the disk.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "forward.h"
#include "kvscope/capture/recorder.h"
#include "kvscope/core/error.h"
#include "kvscope/runtime/live_run.h"
#include "kvscope/storage/capture_reader.h"
#include "loaded_model.h"
#include "pipeline.h"
#include "writer_thread.h"

namespace kvscope::bench {
namespace {

/// The forward pass alone: no one watches it, nothing is remembered for evidence.
class BareRun {
 public:
  BareRun(std::shared_ptr<const Model> model, const TokenTable& prompt)
      : model_(std::dynamic_pointer_cast<const detail::LoadedModel>(model)),
        prompt_tokens_(prompt.prompt_tokens) {
    const ModelShape& shape = model_->shape();
    for (int layer = 0; layer < shape.layers; ++layer) {
      layers_.emplace_back(shape.kv_heads, shape.head_dim, prompt_tokens_ + 64, model_->tensors());
    }
    run(prompt.id);
  }
  void step(std::int32_t token) { run({token}); }

 private:
  void run(const std::vector<std::int32_t>& ids) {
    const at::NoGradGuard no_grad;
    std::vector<std::int32_t> positions;
    for (std::size_t row = 0; row < ids.size(); ++row) {
      positions.push_back(seen_ + static_cast<std::int32_t>(row));
    }
    const at::Tensor hidden =
        detail::run_pass(*model_, layers_, {ids, positions, seen_, prompt_tokens_, false}, {});
    detail::head_logits(*model_, hidden.narrow(0, hidden.size(0) - 1, 1));
    seen_ += static_cast<int>(ids.size());
  }

  std::shared_ptr<const detail::LoadedModel> model_;
  std::vector<detail::LayerState> layers_;
  int prompt_tokens_ = 0;
  int seen_ = 0;
};

struct Written {
  double seconds = 0;
  std::int64_t bytes = 0;
};

/// Layers of keys and values through the writer thread, as a `qkv` capture of a long prompt writes
/// them, to the end of the renamed file and what fsync takes.
Written write_capture(const std::string& out, CaptureIndex index, int layers) {
  index.shape.layers = layers;
  index.layers.clear();
  CaptureRequest request;
  request.profile = Profile::qkv;
  request.windows = {64};
  for (int layer = 0; layer < layers; ++layer) {
    index.layers.push_back(layer);
    request.layers.push_back(layer);
  }
  const std::int64_t heads = index.shape.kv_heads;
  const std::int64_t dim = index.shape.head_dim;
  const std::int64_t tokens = index.prompt_tokens;
  const at::Tensor rows = at::full({heads, tokens, dim}, 0.5, at::kFloat);
  TokenTable prompt;
  for (int token = 0; token < index.prompt_tokens; ++token) {
    prompt.append(1, token, Segment::context, "x");
  }
  prompt.prompt_tokens = prompt.context_tokens = index.prompt_tokens;
  Written written;
  written.seconds = seconds([&] {
    {
      CaptureWriter writer(
          out, index, prompt,
          capture_datasets(request, index.shape, index.prompt_tokens, ElementType::f4),
          {true, false, false});
      detail::WriterThread thread(writer);
      for (int layer = 0; layer < layers; ++layer) {
        for (const char* name : {"keys", "keys_pre_rope", "values"}) {
          thread.put(layer_dataset(layer, name), {0, 0, 0}, {heads, tokens, dim}, rows);
          written.bytes += static_cast<std::int64_t>(rows.nbytes());
        }
      }
      thread.drain();
      writer.finish(0);
    }
    const int file = ::open(out.c_str(), O_RDWR);
    ::fdatasync(file);
    ::close(file);
  });
  return written;
}

/// As many bytes by plain writes of 1 MiB: what the disk gives.
double write_plainly(const std::string& out, std::int64_t bytes) {
  const std::string block(std::size_t{1} << 20, 'x');
  const double time = seconds([&] {
    const int file = ::open(out.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    for (std::int64_t done = 0; done < bytes; done += static_cast<std::int64_t>(block.size())) {
      KVSCOPE_CHECK(::write(file, block.data(), block.size()) > 0, ErrorCode::io,
                    "the disk is full", out);
    }
    ::fdatasync(file);
    ::close(file);
  });
  std::filesystem::remove(out);
  return time;
}

}  // namespace

void measure_overhead(const std::shared_ptr<const Model>& model, const TokenTable& prompt,
                      const CaptureIndex& header, const std::string& out, int steps) {
  CaptureRequest request;
  request.profile = Profile::window;
  request.new_tokens = steps;
  request.force = true;
  CaptureIndex index = header;
  index.tokens = prompt.size() + steps;
  Recorder recorder(
      out, request, index, prompt, [&](int layer) { return model->output_factor(layer); },
      [&](int layer) { return model->output_weights(layer); });
  const auto recorded = LiveRun::start(model, prompt, {});
  recorded->prefill(false, &recorder);
  const auto off = LiveRun::start(model, prompt, {});
  off->prefill(false, nullptr);
  BareRun bare(model, prompt);
  BareRun twin(model, prompt);  // how far two runs of the same code are apart
  constexpr int kinds = 4;
  std::vector<double> times[kinds];
  for (int step = 0; step < steps; ++step) {  // in turns, and each first as often as the others
    const std::int32_t token = sample(off->logits(), {}, step);
    const std::function<void()> work[kinds] = {
        [&] { bare.step(token); }, [&] { off->decode(token, nullptr); },
        [&] { recorded->decode(token, &recorder); }, [&] { twin.step(token); }};
    for (int turn = 0; turn < kinds; ++turn) {
      const int which = (step + turn) % kinds;
      times[which].push_back(seconds(work[which]));
    }
  }
  recorder.finish(steps);
  // Steps of one number lie side by side, so that what else the machine does slows both.
  const auto ratio = [&times](int which, int to) {
    std::vector<double> ratios;
    for (std::size_t step = 0; step < times[which].size(); ++step) {
      ratios.push_back(times[which][step] / times[to][step]);
    }
    return median(ratios);
  };
  print("overhead", {{"tokens", prompt.size()},
                     {"steps", steps},
                     {"bare_seconds", median(times[0])},
                     {"off_seconds", median(times[1])},
                     {"window_seconds", median(times[2])},
                     {"twin_ratio", ratio(3, 0)},
                     {"off_ratio", ratio(1, 0)},
                     {"window_ratio", ratio(2, 1)}});
}

void measure_writer(const CaptureIndex& header, const std::string& out, int rounds) {
  CaptureIndex index = header;
  constexpr std::int64_t wanted = std::int64_t{1} << 30;
  const std::int64_t layer_bytes =
      std::int64_t{3} * index.shape.kv_heads * index.prompt_tokens * index.shape.head_dim * 4;
  const int layers = static_cast<int>(std::max<std::int64_t>(1, wanted / layer_bytes));
  std::vector<double> ours;
  std::vector<double> disk;
  for (int round = 0; round < rounds; ++round) {
    const Written written = write_capture(out, index, layers);
    ours.push_back(static_cast<double>(written.bytes) / written.seconds);
    disk.push_back(static_cast<double>(written.bytes) /
                   write_plainly(out + ".plain", written.bytes));
  }
  print("writer", {{"bytes", layer_bytes * layers},
                   {"bytes_per_second", median(ours)},
                   {"disk_bytes_per_second", median(disk)}});
}

}  // namespace kvscope::bench
