#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "command.h"
#include "console.h"
#include "decision_names.h"
#include "generation.h"
#include "kvscope/core/error.h"
#include "kvscope/core/merge_books.h"
#include "kvscope/storage/decision_file.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  CommonOptions common;
  PromptOptions prompt;
  std::string model;
  std::vector<std::string> methods;
  std::vector<std::string> keeps = {"0.2"};
  ComputeOptions compute;
  std::string cut_after = "prompt";
  std::string output;
  int chunk = 0;
  bool force = false;
  GenerationOptions generation;
};

std::string one_line(const std::string& text) {
  std::string line;
  for (const char character : text) {
    if (character == '\n') {
      line += "\\n";
    } else {
      line += character;
    }
  }
  return line;
}

/// Methods whose mean caches differ by more are not compared (as in `report`).
constexpr double comparable_memory = 0.05;

std::string memory_sentence(const std::vector<MethodAnswer>& answers) {
  if (answers.size() < 2) {
    return "";
  }
  const auto [least, most] = std::minmax_element(
      answers.begin(), answers.end(),
      [](const MethodAnswer& a, const MethodAnswer& b) { return a.mean_bytes() < b.mean_bytes(); });
  const double apart = most->mean_bytes() > 0 ? 1 - least->mean_bytes() / most->mean_bytes() : 0;
  if (apart <= comparable_memory) {
    return fmt::format("Matched memory: mean caches lie within {:.1f} % of each other.\n",
                       100 * apart);
  }
  return fmt::format(
      "Memory is not matched: mean caches range from {} ({} at {}) to {} ({} at {}). Rows more "
      "than {:.0f} %\napart are not comparable.\n",
      bytes_text(static_cast<std::int64_t>(least->mean_bytes())), least->method, least->keep,
      bytes_text(static_cast<std::int64_t>(most->mean_bytes())), most->method, most->keep,
      100 * comparable_memory);
}

/// What a merging method lost on the way; empty for the others.
std::string losses_sentence(const MethodAnswer& answer) {
  const MergeBooks books = merge_books(answer.decision);
  if (books.dropped_slots == 0 && books.clamped + books.uncounted == 0) {
    return "";
  }
  const auto share = [](double part, double whole) { return whole > 0 ? 100 * part / whole : 0; };
  const auto tokens = static_cast<double>(books.tokens);
  if (books.uncounted > 0) {
    return fmt::format(
        "{} at {}: {:.1f} % of all tokens are merged into slots that attention still counts as one "
        "token each,\nwhich is the method's rule.\n",
        answer.method, answer.keep, share(books.uncounted, tokens));
  }
  return fmt::format(
      "{} at {}: {:.0f} % of the removed slots were dropped in a merge, not merged; {:.1f} % of "
      "all tokens\nseen are gone with them, {:.1f} % are merged beyond the limit on "
      "multiplicities and not counted.\n",
      answer.method, answer.keep,
      share(static_cast<double>(books.dropped_slots), static_cast<double>(books.removed_slots)),
      share(books.dropped, tokens), share(books.clamped, tokens));
}

std::string table(const Generation& generation, const std::vector<MethodAnswer>& answers,
                  const std::string& cut_after) {
  const FullAnswer& full = generation.full();
  std::string text = fmt::format(
      "full cache, {}: {}\n\n{:<40} {:>8} {:>10} {:>10} {:>10} {:>5} {:>7} {:>10} {:>10}  {}\n",
      bytes_text(full.cache_bytes), one_line(full.text), "method", "keep", "cache", "mean", "peak",
      "cuts", "differs", "KL forced", "KL free", "answer");
  for (const MethodAnswer& answer : answers) {
    text += fmt::format(
        "{:<40} {:>8} {:>10} {:>10} {:>10} {:>5} {:>7} {:>10.4f} {:>10.4f}  {}\n", answer.method,
        answer.keep, bytes_text(answer.cache_bytes),
        bytes_text(static_cast<std::int64_t>(answer.mean_bytes())), bytes_text(answer.peak_bytes()),
        answer.decision.events.size(),
        answer.first_divergence < 0 ? "never" : fmt::format("at {}", answer.first_divergence),
        answer.mean_divergence(), answer.mean_free_divergence(), one_line(answer.text));
  }
  text += fmt::format(
      "\nLive decisions, first cut after the {} unless the method waits. 'cache' is held when the "
      "answer\nbegins; 'mean' and 'peak' over its tokens. KL(full || compressed) of the next token "
      "in nats, mean\nover the answer: 'forced', the full run's tokens fed to both; 'free', the "
      "method's own tokens fed to\nboth. 'differs': first answer token.\n{}",
      cut_after, memory_sentence(answers));
  for (const MethodAnswer& answer : answers) {
    text += losses_sentence(answer);
  }
  return text;
}

void save(const Options& options, const nlohmann::json& answers,
          const std::vector<MethodAnswer>& rows) {
  make_folder(options.output);
  const std::filesystem::path folder(options.output);
  for (const MethodAnswer& row : rows) {
    write_decision((folder / decision_file_name("live", row.method, row.keep)).string(),
                   row.decision, options.force);
  }
  write_text_file((folder / "answers.json").string(),
                  answers.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n",
                  options.force);
}

void run_generate(const Options& options) {
  use_threads(options.common.threads);
  if (!options.output.empty()) {
    refuse_existing((std::filesystem::path(options.output) / "answers.json").string(),
                    options.force);
  }
  std::vector<Method> methods;
  for (const std::string& text : options.methods) {
    for (Method& method : parse_methods(text)) {
      methods.push_back(std::move(method));
    }
  }
  std::vector<Budget> budgets;
  for (const std::string& keep : options.keeps) {
    budgets.push_back(Budget::parse(keep));
  }
  const auto file = open_model(options.model);
  const auto tokenizer = open_tokenizer(*file, options.prompt);
  const TokenTable prompt = read_prompt(options.prompt, *tokenizer);
  check_context(options.prompt, file->config(), prompt);
  const auto model = Model::load(file, runtime_options(options.common, options.compute));
  GenerationOptions generation_options = options.generation;
  generation_options.methods = methods;
  generation_options.tokenizer = tokenizer;
  generation_options.budgets = budgets;
  generation_options.cut_after_context = options.cut_after == "context";
  Progress progress("generate", "layer-tokens");
  LiveRunOptions live;
  live.prefill_chunk = options.chunk;
  live.stop = &stop_requested();
  live.beyond_context = options.prompt.beyond_context;
  live.progress = [&](int done, int total, int layer) {
    progress.update(static_cast<double>(done) * model->shape().layers + layer,
                    static_cast<double>(total) * model->shape().layers);
  };
  Generation generation(model, prompt, generation_options, live);
  std::vector<MethodAnswer> answers;
  for (const Method& method : methods) {
    for (const Budget& budget : budgets) {
      answers.push_back(generation.answer(method, budget));
    }
  }
  const nlohmann::json json = answers_json(file->config().name, sequence_hash(file->hash(), prompt),
                                           generation.full(), answers);
  if (!options.output.empty()) {
    save(options, json, answers);
  }
  if (options.common.json) {
    print_json(json);
  } else {
    print(table(generation, answers, options.cut_after));
  }
}

}  // namespace

void add_generate(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.app.add_subcommand(
      "generate", "One prefill, then each method on a copy of the cache, against the full one");
  command->add_option("MODEL", options->model, "A .gguf file or a Hugging Face folder")->required();
  add_prompt(*command, options->prompt);
  command->add_option("-m,--method", options->methods, "Method text; repeatable");
  command->add_option("--keep", options->keeps, "Budget; repeatable")->capture_default_str();
  command->add_option("--new-tokens", options->generation.new_tokens, "Longest answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--cut-after", options->cut_after, "prompt, or context: before the question")
      ->check(CLI::IsMember({"prompt", "context"}))
      ->capture_default_str();
  command->add_option("--temperature", options->generation.sampling.temperature, "0 = greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--seed", options->generation.sampling.seed, "Of sampling")
      ->capture_default_str();
  add_compute(*command, options->compute);
  command->add_option("--chunk", options->chunk, "Prefill chunk in tokens; 0 = in one piece")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_flag("--force", options->force, "Overwrite the output");
  command->add_option("-o,--output", options->output,
                      "Folder for answers.json (for `report --answers`) and the live decisions");
  add_common(*command, options->common);
  command->footer(
      "Examples:\n"
      "  kvscope generate model.gguf -f text.txt --chat --question \"What is the code?\" \\\n"
      "      -m snapkv -m streaming_llm --keep 0.2 --new-tokens 32 -o answers");
  command->callback([options] { run_generate(*options); });
}

}  // namespace kvscope::cli
