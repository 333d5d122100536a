// pipeline_bench: the main job on a real model, cell by cell, for ./run bench.
//
//   pipeline_bench tokens MODEL TEXT N OUT      N token ids of a text, repeated as needed
//   pipeline_bench load MODEL                   seconds until the model is ready
//   pipeline_bench prefill MODEL IDS [DTYPE]    plain prefill; peak memory of the process
//   pipeline_bench decode MODEL IDS N DTYPE     seconds a token of N behind the prompt
//     DTYPE: float32, bfloat16, or kept, kept_bfloat16 (the same with the weights as stored)
//   pipeline_bench window|scores MODEL IDS OUT  prefill with a capture, forward to renamed file
//   pipeline_bench ratios MODEL IDS OUT ROUNDS  the three prefills, interleaved in one process
//   pipeline_bench merging MODEL IDS METHOD ROUNDS  against a plain prefill in chunks of 512
//   pipeline_bench overhead MODEL IDS OUT STEPS     a decode step without, with capture off and on
//   pipeline_bench writer MODEL IDS OUT ROUNDS      1 GiB through the writer, and plainly
//   pipeline_bench decide CAPTURE ROUNDS METHOD...
//
// Threads: the environment variable KVSCOPE_BENCH_THREADS, default 2.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>

#include "kvscope/capture/recorder.h"
#include "kvscope/core/error.h"
#include "kvscope/model/prompt.h"
#include "kvscope/runtime/live_run.h"
#include "kvscope/runtime/model.h"
#include "pipeline.h"

namespace kvscope::bench {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

double peak_memory_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

void print(const std::string& name, nlohmann::json values) {
  values["name"] = name;
  fmt::print("{}\n", values.dump());
  std::fflush(stdout);
}

namespace {

int threads() {
  const char* text = std::getenv("KVSCOPE_BENCH_THREADS");
  return text == nullptr ? 2 : std::max(1, std::atoi(text));
}

std::shared_ptr<const Model> load(const std::string& path, const std::string& dtype = "float32") {
  RuntimeOptions options;
  options.keep_weights = dtype.starts_with("kept");
  options.dtype = dtype == "kept" ? "float32" : dtype == "kept_bfloat16" ? "bfloat16" : dtype;
  options.threads = threads();
  return Model::load(ModelFile::open(path), options);
}

void write_tokens(const std::string& model, const std::string& text_file, int count,
                  const std::string& out) {
  std::ifstream in(text_file);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::vector<std::int32_t> ids = ModelFile::open(model)->tokenizer()->encode(text);
  KVSCOPE_CHECK(!ids.empty(), ErrorCode::usage, "the text is empty", text_file, "name a text file");
  std::ofstream file(out);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    file << ids[i % ids.size()] << '\n';
  }
}

TokenTable first_tokens(const TokenTable& all, int count) {
  TokenTable some;
  for (int i = 0; i < count; ++i) {
    some.append(all.id[static_cast<std::size_t>(i)], i, Segment::context, all.text(i));
  }
  some.prompt_tokens = count;
  some.context_tokens = count;
  return some;
}

void plain(const std::shared_ptr<const Model>& model, const TokenTable& prompt) {
  LiveRun::start(model, prompt, {})->prefill(false, nullptr);
}

CaptureIndex index_of(const Model& model, const CaptureRequest& request, const TokenTable& prompt) {
  CaptureIndex index;
  index.model_name = model.config().name;
  index.model_hash = model.file().hash();
  index.architecture = model.config().architecture;
  index.weights_dtype = model.config().weights_dtype;
  index.compute_dtype = index.cache_dtype = model.options().dtype;
  index.device = model.options().device;
  index.capture_hash = sequence_hash(index.model_hash, prompt);
  index.request_json = request_json(request);
  index.profile = request.profile;
  index.shape = model.shape();
  index.windows = request.windows;
  for (int layer = 0; layer < index.shape.layers; ++layer) {
    index.layers.push_back(layer);
  }
  index.tokens = index.prompt_tokens = index.first_query = prompt.size();
  index.context_tokens = prompt.context_tokens;
  return index;
}

void captured(const std::shared_ptr<const Model>& model, const TokenTable& prompt, Profile profile,
              const std::string& out) {
  CaptureRequest request;
  request.profile = profile;
  request.force = true;
  Recorder recorder(
      out, request, index_of(*model, request, prompt), prompt,
      [&](int layer) { return model->output_factor(layer); },
      [&](int layer) { return model->output_weights(layer); });
  LiveRun::start(model, prompt, {})->prefill(false, &recorder);
  recorder.finish(0);
}

struct Job {
  std::shared_ptr<const Model> model;
  TokenTable prompt;
};

/// Model and prompt, with allocator and threads warmed up on a short pass.
Job prepare(const std::string& model_file, const std::string& ids,
            const std::string& dtype = "float32") {
  Job job{load(model_file, dtype), {}};
  job.prompt = read_token_ids(ids, *job.model->file().tokenizer());
  plain(job.model, first_tokens(job.prompt, std::min(128, job.prompt.size())));
  return job;
}

void measure_ratios(const Job& job, const std::string& out, int rounds) {
  std::vector<double> times[3];
  std::vector<double> window_ratio;
  std::vector<double> scores_ratio;
  for (int round = 0; round < rounds; ++round) {
    times[0].push_back(seconds([&] { plain(job.model, job.prompt); }));
    times[1].push_back(seconds([&] { captured(job.model, job.prompt, Profile::window, out); }));
    times[2].push_back(seconds([&] { captured(job.model, job.prompt, Profile::scores, out); }));
    window_ratio.push_back(times[1].back() / times[0].back());
    scores_ratio.push_back(times[2].back() / times[0].back());
  }
  print("ratios", {{"tokens", job.prompt.size()},
                   {"rounds", rounds},
                   {"plain_seconds", median(times[0])},
                   {"window_seconds", median(times[1])},
                   {"scores_seconds", median(times[2])},
                   {"window_ratio", median(window_ratio)},
                   {"scores_ratio", median(scores_ratio)}});
}

void measure_decode(const std::vector<std::string>& arguments) {
  const std::string& dtype = arguments.at(3);
  const Job job = prepare(arguments.at(0), arguments.at(1), dtype);
  const auto run = LiveRun::start(job.model, job.prompt, {});
  run->prefill(false, nullptr);
  std::vector<double> times;
  for (int step = 0; step < std::stoi(arguments.at(2)); ++step) {
    const std::int32_t token = sample(run->logits(), {}, step);
    times.push_back(seconds([&] { run->decode(token, nullptr); }));
  }
  print("decode." + dtype, {{"tokens", job.prompt.size()},
                            {"seconds", median(times)},
                            {"least_seconds", *std::min_element(times.begin(), times.end())},
                            {"peak_mib", peak_memory_mib()},
                            {"threads", threads()}});
}

void measure_run(const std::string& mode, const std::vector<std::string>& arguments) {
  const bool typed = mode == "prefill" && arguments.size() > 2;
  const std::string dtype = typed ? arguments[2] : "float32";
  const Job job = prepare(arguments.at(0), arguments.at(1), dtype);
  if (mode == "ratios") {
    measure_ratios(job, arguments.at(2), std::stoi(arguments.at(3)));
    return;
  }
  const double time = seconds([&] {
    if (mode == "prefill") {
      plain(job.model, job.prompt);
    } else {
      captured(job.model, job.prompt, parse_profile(mode), arguments.at(2));
    }
  });
  print(typed ? mode + "." + dtype : mode, {{"tokens", job.prompt.size()},
                                            {"seconds", time},
                                            {"peak_mib", peak_memory_mib()},
                                            {"threads", threads()}});
}

void run(const std::vector<std::string>& words) {
  const std::string& mode = words.at(0);
  const std::vector<std::string> arguments(words.begin() + 1, words.end());
  if (mode == "tokens") {
    write_tokens(arguments.at(0), arguments.at(1), std::stoi(arguments.at(2)), arguments.at(3));
  } else if (mode == "load") {
    const double time = seconds([&] { load(arguments.at(0)); });
    print(mode, {{"seconds", time}, {"peak_mib", peak_memory_mib()}});
  } else if (mode == "decide") {
    measure_decide(arguments.at(0), {arguments.begin() + 2, arguments.end()}, threads(),
                   std::stoi(arguments.at(1)));
  } else if (mode == "decode") {
    measure_decode(arguments);
  } else if (mode == "overhead" || mode == "writer") {
    const Job job = prepare(arguments.at(0), arguments.at(1));
    CaptureRequest request;
    const CaptureIndex index = index_of(*job.model, request, job.prompt);
    const int count = std::stoi(arguments.at(3));
    if (mode == "writer") {
      measure_writer(index, arguments.at(2), count);
    } else {
      measure_overhead(job.model, job.prompt, index, arguments.at(2), count);
    }
  } else if (mode == "merging") {
    const Job job = prepare(arguments.at(0), arguments.at(1));
    measure_merging(job.model, job.prompt, arguments.at(2), std::stoi(arguments.at(3)));
  } else {
    measure_run(mode, arguments);
  }
}

}  // namespace
}  // namespace kvscope::bench

int main(int argc, char** argv) {
  kvscope::keep_freed_memory();
  try {
    kvscope::bench::run({argv + 1, argv + argc});
  } catch (const kvscope::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return kvscope::exit_status(error);
  } catch (const std::exception& error) {
    fmt::print(stderr, "pipeline_bench: {} (the comment at the top of its source has the usage)\n",
               error.what());
    return 2;
  }
  return 0;
}
