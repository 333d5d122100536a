#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "capture_price.h"
#include "capture_request.h"
#include "captured_method.h"
#include "command.h"
#include "console.h"
#include "kvscope/capture/recorder.h"
#include "kvscope/capture/room.h"
#include "kvscope/core/error.h"
#include "kvscope/model/tokenizer.h"
#include "kvscope/runtime/live_run.h"
#include "kvscope/storage/file_system.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  CommonOptions common;
  PromptOptions prompt;
  std::string model;
  RequestOptions asked;
  std::string method;
  std::string keep;
  int chunk = 0;
  bool keep_going = false;
  bool live_on_network = false;
  bool yes = false;
  bool price = false;
  Sampling sampling;
};

/// Whether the file is written live where it lies; returns what the file says about that.
std::string follow_plan(Options& options) {
  const LivePlan plan = plan_live(shared_file_system(options.asked.output),
                                  options.asked.request.live, options.live_on_network);
  if (!plan.warning.empty()) {
    say("warning: " + plan.warning);
  }
  options.asked.request.live = plan.live;
  return plan.note;
}

/// Tensors with weights that are not finite, as the capture holds it; empty = there are none.
std::string nonfinite_json(const std::vector<NonfiniteWeight>& weights) {
  if (weights.empty()) {
    return {};
  }
  constexpr std::size_t most_names = 500;  // an attribute must stay below 64 KiB
  std::int64_t total = 0;
  nlohmann::json tensors = nlohmann::json::object();
  for (const NonfiniteWeight& weight : weights) {
    total += weight.count;
    if (tensors.size() < most_names) {
      tensors[weight.name] = weight.count;
    }
  }
  return nlohmann::json{{"total", total}, {"tensors", tensors}}.dump();
}

CaptureIndex make_index(const Options& options, const ModelFile& file, const TokenTable& prompt,
                        const CapturedMethod* compressed) {
  CaptureIndex index;
  if (compressed != nullptr) {
    index.method = compressed->method().text();
    index.budget = compressed->budget().text();
  }
  const ModelConfig& config = file.config();
  index.created_by = "kvscope " KVSCOPE_VERSION;
  index.model_name = config.name;
  index.model_hash = file.hash();
  index.architecture = config.architecture;
  index.weights_dtype = config.weights_dtype;
  index.compute_dtype = options.asked.compute.dtype;
  index.cache_dtype = options.asked.compute.dtype;
  index.device = options.common.device;
  index.shape = config.shape;
  index.layers = options.asked.request.layers;
  index.windows = options.asked.request.windows;
  index.profile = options.asked.request.profile;
  index.prompt_tokens = prompt.prompt_tokens;
  index.context_tokens = prompt.context_tokens;
  index.tokens = prompt.prompt_tokens + options.asked.request.new_tokens;
  index.first_query = options.asked.request.profile == Profile::full ? 0
                      : options.asked.request.profile == Profile::qkv
                          ? std::max(0, prompt.prompt_tokens - options.asked.request.stored_queries)
                          : prompt.prompt_tokens;
  index.request_json = request_json(options.asked.request);
  if (options.asked.request.new_tokens > 0) {
    index.sampling_json = fmt::format(R"({{"temperature":{},"top_k":{},"top_p":{},"seed":{}}})",
                                      options.sampling.temperature, options.sampling.top_k,
                                      options.sampling.top_p, options.sampling.seed);
  }
  index.capture_hash = sequence_hash(index.model_hash, prompt);
  return index;
}

/// Generates up to `new_tokens` and records each step; returns the steps taken.
int decode(LiveRun& run, Recorder& recorder, const Tokenizer& tokenizer, const Options& options,
           CapturedMethod* compressed) {
  int steps = 0;
  Progress progress("decode", "tokens");
  for (int step = 1; step <= options.asked.request.new_tokens; ++step) {
    const std::int32_t token = sample(run.logits(), options.sampling, step);
    if (tokenizer.is_end_of_generation(token)) {
      break;
    }
    run.decode(token, &recorder);
    if (compressed != nullptr) {
      compressed->after_step();
    }
    steps = step;
    progress.update(step, options.asked.request.new_tokens);
    if (!recorder.first_nonfinite().empty() && !options.keep_going) {
      break;
    }
  }
  return steps;
}

struct Timing {
  double load = 0;
  double prefill = 0;
  double decode = 0;
  double finish = 0;
  double estimated = 0;  ///< of prompt and steps, before the run
};

void print_result(const Options& options, const TokenTable& prompt, int steps, const Timing& time,
                  std::int64_t dropped, const CapturedMethod* compressed) {
  std::error_code failure;
  const auto size = std::filesystem::file_size(options.asked.output, failure);
  const double rate = prompt.prompt_tokens / (time.prefill + time.finish);
  if (options.common.json) {
    nlohmann::json result = {{"capture", options.asked.output},
                             {"bytes", size},
                             {"profile", profile_name(options.asked.request.profile)},
                             {"prompt_tokens", prompt.prompt_tokens},
                             {"context_tokens", prompt.context_tokens},
                             {"steps", steps},
                             {"load_seconds", time.load},
                             {"prefill_seconds", time.prefill},
                             {"decode_seconds", time.decode},
                             {"finish_seconds", time.finish},
                             {"estimated_seconds", time.estimated},
                             {"dropped_bytes", dropped},
                             {"peak_memory_bytes", peak_memory_bytes()}};
    if (compressed != nullptr) {
      result["method"] = compressed->method().text();
      result["keep"] = compressed->budget().text();
      result["decision"] = compressed->decision_path();
    }
    print_json(result);
    return;
  }
  print(fmt::format("{}: {} tokens{}, profile {}, {}; prefill {:.0f} tokens/s, {:.1f} s in all",
                    options.asked.output, prompt.prompt_tokens,
                    steps > 0 ? fmt::format(" + {} generated", steps) : "",
                    profile_name(options.asked.request.profile),
                    bytes_text(static_cast<std::int64_t>(size)), rate,
                    time.load + time.prefill + time.decode + time.finish));
  if (compressed != nullptr) {
    print(fmt::format("{}: {} at {}, live; the prompt's planes are the full cache's",
                      compressed->decision_path(), compressed->method().text(),
                      compressed->budget().text()));
  }
}

void print_price(const Options& options, const CapturePrice& price, const CaptureTime& estimate) {
  if (options.common.json) {
    print_json({{"profile", profile_name(options.asked.request.profile)},
                {"disk_bytes", price.disk_bytes},
                {"memory_bytes", price.memory_bytes},
                {"statistics_flop", price.extra_flop},
                {"statistics_seconds", estimate.statistics},
                {"seconds", estimate.total()}});
    return;
  }
  print(
      fmt::format("profile {}: {} on disk, {} of memory beside weights and cache, {:.1f} s, of "
                  "them {:.1f} s for statistics",
                  profile_name(options.asked.request.profile), bytes_text(price.disk_bytes),
                  bytes_text(price.memory_bytes), estimate.total(), estimate.statistics));
}

void run_capture(Options& options) {
  use_threads(options.common.threads);
  if (!options.price) {
    refuse_existing(options.asked.output, options.asked.request.force);
  }
  const auto file = open_model(options.model);
  const auto tokenizer = open_tokenizer(*file, options.prompt);
  const TokenTable prompt = read_prompt(options.prompt, *tokenizer);
  check_context(options.prompt, file->config(), prompt);
  const ModelShape& shape = file->config().shape;
  options.asked.request.seed = options.sampling.seed;
  resolve_request(options.asked, shape, prompt);
  std::optional<CapturedMethod> compressed;
  if (!options.method.empty()) {
    const RunPlan plan{shape, file->hash(), prompt.prompt_tokens};
    compressed.emplace(options.method, options.keep, plan, options.asked.output,
                       options.asked.request.force);
  }
  CapturedMethod* const method = compressed ? &*compressed : nullptr;
  const PriceInput input{*file,
                         prompt.prompt_tokens,
                         options.chunk,
                         options.common,
                         options.asked.compute,
                         options.asked.output,
                         options.yes || options.price};
  options.asked.request.profile =
      choose_profile(options.asked.profile, options.asked.request, input);
  const CaptureTime estimate = confirm_price(options.asked.request, input);
  if (options.price) {
    print_price(options, price_of(options.asked.request, input), estimate);
    return;
  }
  const std::string notes = follow_plan(options);

  Timing time;
  time.estimated = estimate.total();
  auto start = Clock::now();
  const auto model = Model::load(file, runtime_options(options.common, options.asked.compute));
  time.load = seconds_since(start);

  start = Clock::now();
  Progress progress("prefill", "layer-tokens");
  LiveRunOptions live;
  live.prefill_chunk = options.chunk;
  live.stop = &stop_requested();
  live.beyond_context = options.prompt.beyond_context;
  if (method != nullptr) {
    live.statistics_window =
        std::max(live.statistics_window, queries_needed(method->method(), prompt.prompt_tokens));
  }
  live.progress = [&](int done, int total, int layer) {
    progress.update(static_cast<double>(done) * shape.layers + layer,
                    static_cast<double>(total) * shape.layers);
  };
  auto run = LiveRun::start(model, prompt, live);
  CaptureIndex index = make_index(options, *file, prompt, method);
  index.nonfinite_weights = nonfinite_json(model->nonfinite_weights());
  index.notes = notes;
  Recorder recorder(
      options.asked.output, options.asked.request, index, prompt,
      [&](int layer) { return model->output_factor(layer); },
      [&](int layer) { return model->output_weights(layer); });
  int steps = 0;
  try {
    record_keys_gradient(*run, recorder);
    run->prefill(method != nullptr, &recorder);
    recorder.prefill_logits(run->logits());
    time.prefill = seconds_since(start);
    start = Clock::now();
    const auto fresh = [&] { return LiveRun::start(model, prompt, live); };
    LiveRun& decoded = method == nullptr ? *run : method->begin(std::move(run), fresh);
    if (recorder.first_nonfinite().empty() || options.keep_going) {
      steps = decode(decoded, recorder, *tokenizer, options, method);
    }
    time.decode = seconds_since(start);
    start = Clock::now();
    recorder.finish(steps);
    if (method != nullptr) {
      method->write();
    }
    time.finish = seconds_since(start);
  } catch (const Error& error) {
    recorder.stop(state_after(error), error.message());
    throw;
  } catch (const std::exception& error) {  // above all: out of memory, in LibTorch or in ours
    recorder.stop(CaptureState::error, error.what());
    throw;
  }
  if (recorder.dropped_bytes() > 0) {
    say(
        fmt::format("warning: the disk was slower than the run: {} were left out, listed by "
                    "`kvscope inspect` and in /status/dropped; --never-drop waits instead",
                    bytes_text(recorder.dropped_bytes())));
  }
  print_result(options, prompt, steps, time, recorder.dropped_bytes(), method);
  KVSCOPE_CHECK(
      recorder.first_nonfinite().empty() || options.keep_going, ErrorCode::failed,
      "the model computes numbers that are not finite, first in " + recorder.first_nonfinite(),
      options.asked.output,
      "the capture holds them as they are, up to there; check the model file, or go on with "
      "--keep-going");
}

std::string hook_list() {
  std::string lines;
  for (int index = 0; index < hook_points; ++index) {
    const auto point = static_cast<HookPoint>(index);
    lines += fmt::format("  {:<17} {}\n", hook_name(point), hook_meaning(point));
  }
  return lines +
         "Also, and not cheap:\n"
         "  attention         probabilities, all queries by all keys (--attention-maps)\n"
         "  logits_attention  attention logits of the --hook-tokens, and of steps; -inf = masked\n"
         "  keys_gradient     d loss / d keys before RoPE, of the prompt: one more pass, and "
         "back\n";
}

}  // namespace

void add_capture(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand("capture", "Run a model and write the run down");
  command->add_option("MODEL", options->model, "A .gguf file or a Hugging Face folder")->required();
  add_prompt(*command, options->prompt);
  add_request(*command, options->asked);
  auto* method = command->add_option("--method", options->method,
                                     "Decode on the cache this method leaves; its decision is "
                                     "written beside the capture");
  auto* keep = command->add_option("--keep", options->keep, "Its budget");
  method->needs(keep);
  keep->needs(method);
  command->add_option("--temperature", options->sampling.temperature, "0 = greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "Of sampling, and of --sample-queries")
      ->capture_default_str();
  command->add_option("--chunk", options->chunk, "Prefill chunk in tokens; 0 = in one piece")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_flag("--live-on-network", options->live_on_network,
                    "--live even on NFS, SMB or FUSE, with a note in the file");
  command->add_flag("--keep-going", options->keep_going,
                    "Go on decoding although numbers are NaN or infinite");
  command->add_flag("--yes", options->yes,
                    "Go on although the capture is large, or memory seems short");
  command->add_flag("--price", options->price,
                    "Print what the capture would cost and do nothing else");
  add_common(*command, options->common);
  command->footer(
      "Examples:\n"
      "  kvscope capture model.gguf -p \"Once upon a time\" -o run.capture.h5\n"
      "  kvscope capture model.gguf -f text.txt --chat --question \"What is the code?\" \\\n"
      "      --profile full --new-tokens 32 -o run.capture.h5\n"
      "  kvscope capture model.gguf -f text.txt --method snapkv --keep 0.2 --new-tokens 32 -o "
      "cut.capture.h5\n"
      "      the prompt as the full cache sees it, the steps on the cut cache, and the decision\n"
      "  kvscope capture model.gguf -f text.txt --layers every:4 --hooks residual_out,logits \\\n"
      "      --hook-tokens last:64 --new-tokens 100 --steps every:10 -o stream.capture.h5\n"
      "Hook points, rows of /layers/LLL/NAME (/model/NAME) and of /steps/NAME:\n" +
      hook_list());
  command->callback([options] { run_capture(*options); });
}

}  // namespace kvscope::cli
