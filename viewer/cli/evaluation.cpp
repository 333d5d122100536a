#include "evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/core/merge_books.h"
#include "kvscope/model/tokenizer.h"
#include "prompt_options.h"

namespace kvscope::cli {
namespace {

constexpr double comparable_memory = 0.05;  // as in `report` and `generate`

/// The needle as a line of its own behind the first line that ends after `depth` of the text.
std::string planted(const std::string& text, const std::string& needle, double depth) {
  const auto wanted = static_cast<std::size_t>(depth * static_cast<double>(text.size()));
  const std::size_t line = text.find('\n', std::min(wanted, text.size()));
  const std::size_t at = line == std::string::npos ? text.size() : line + 1;
  const std::string before = text.substr(0, at);
  return before + (before.empty() || before.back() == '\n' ? "" : "\n") + needle + "\n" +
         text.substr(at);
}

PlannedPrompt read_planned_prompt(const nlohmann::json& entry,
                                  const std::filesystem::path& folder) {
  PlannedPrompt prompt;
  prompt.name = entry.at("name").get<std::string>();
  prompt.needle = entry.at("needle").get<std::string>();
  prompt.question = entry.value("question", std::string());
  prompt.answer = entry.value("answer", std::string());
  const std::string file = (folder / entry.at("file").get<std::string>()).lexically_normal();
  prompt.text = read_text_file(file);
  const std::string where = fmt::format("{}, prompt '{}'", file, prompt.name);
  KVSCOPE_CHECK(!prompt.needle.empty(), ErrorCode::usage, "the needle is empty", where,
                "name the fact whose survival is followed");
  if (entry.contains("depth")) {
    const double depth = entry.at("depth").get<double>();
    KVSCOPE_CHECK(depth >= 0 && depth <= 1, ErrorCode::usage, fmt::format("depth {}", depth), where,
                  "give a share of the text, 0 to 1");
    prompt.text = planted(prompt.text, prompt.needle, depth);
  }
  KVSCOPE_CHECK(prompt.text.find(prompt.needle) != std::string::npos, ErrorCode::usage,
                "the text does not hold its needle", where,
                "write it into the text word for word, or give a \"depth\" to plant it at");
  return prompt;
}

/// Where the content of a merged token went: the targets of its last merge.
class Destinations {
 public:
  explicit Destinations(const LayerDecision& layer) : layer_(layer) {
    for (const MergeEdge& edge : layer.edges) {
      if (edge.source != edge.target && layer.removed_at[layer.cell(edge.kv_head, edge.source)] ==
                                            static_cast<std::uint32_t>(edge.event)) {
        targets_[layer.cell(edge.kv_head, edge.source)].push_back(edge.target);
      }
    }
  }

  /// Whether a slot that is left holds the token's content. Each merge ends in a slot that is
  /// removed later or never, so this ends.
  bool survives(int kv_head, int token) const {
    const std::size_t cell = layer_.cell(kv_head, token);
    if (layer_.removed_at[cell] == alive) {
      return true;
    }
    const auto found = targets_.find(cell);
    if (layer_.fate[cell] != Fate::merged || found == targets_.end()) {
      return false;
    }
    return std::any_of(found->second.begin(), found->second.end(), [&](int target) {
      return layer_.removed_at[layer_.cell(kv_head, target)] > layer_.removed_at[cell] &&
             survives(kv_head, target);
    });
  }

 private:
  const LayerDecision& layer_;
  std::map<std::size_t, std::vector<int>> targets_;
};

double mean_of(const std::vector<std::int64_t>& values, std::int64_t otherwise) {
  double sum = 0;
  for (const std::int64_t value : values) {
    sum += static_cast<double>(value);
  }
  return values.empty() ? static_cast<double>(otherwise) : sum / static_cast<double>(values.size());
}

}  // namespace

EvaluationPlan read_plan(const std::string& path) {
  EvaluationPlan plan;
  const std::string text = read_text_file(path);
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  try {
    const nlohmann::json root = nlohmann::json::parse(text);
    KVSCOPE_CHECK(root.value("format", std::string()) == "kvscope.plan", ErrorCode::usage,
                  "not a plan of an evaluation", path, "give a file of format \"kvscope.plan\"");
    for (const nlohmann::json& entry : root.at("prompts")) {
      plan.prompts.push_back(read_planned_prompt(entry, folder));
    }
    std::vector<std::string> models = root.value("models", std::vector<std::string>());
    if (root.contains("model")) {
      models.insert(models.begin(), root.at("model").get<std::string>());
    }
    for (const std::string& model : models) {
      plan.models.push_back((folder / model).lexically_normal());
    }
    plan.methods = root.value("methods", std::vector<std::string>());
    plan.keeps = root.value("keeps", std::vector<std::string>());
    for (const nlohmann::json& file : root.value("calibration", nlohmann::json::array())) {
      plan.calibration.push_back((folder / file.get<std::string>()).lexically_normal());
    }
  } catch (const nlohmann::json::exception& failure) {
    throw Error(ErrorCode::usage, std::string("the plan cannot be read: ") + failure.what(), path,
                "each prompt needs \"name\", \"file\" and \"needle\"");
  }
  for (std::size_t at = 0; at < plan.prompts.size(); ++at) {
    for (std::size_t other = 0; other < at; ++other) {
      KVSCOPE_CHECK(plan.prompts[at].name != plan.prompts[other].name, ErrorCode::usage,
                    fmt::format("two prompts are named '{}'", plan.prompts[at].name), path,
                    "give each prompt a name of its own");
    }
  }
  KVSCOPE_CHECK(!plan.prompts.empty(), ErrorCode::usage, "the plan holds no prompts", path,
                "add prompts to it");
  return plan;
}

NeedleFate needle_fate(const Decision& decision, TokenTable::Range needle) {
  NeedleFate fate;
  double cells = 0;
  for (const LayerDecision& layer : decision.layers) {
    const Destinations destinations(layer);
    for (int head = 0; head < layer.kv_heads; ++head) {
      for (int token = needle.first; token < std::min(needle.last, layer.tokens); ++token) {
        ++cells;
        const bool kept = layer.removed_at[layer.cell(head, token)] == alive;
        fate.kept += kept ? 1 : 0;
        fate.merged += !kept && destinations.survives(head, token) ? 1 : 0;
      }
    }
  }
  fate.kept = cells > 0 ? fate.kept / cells : 0;
  fate.merged = cells > 0 ? fate.merged / cells : 0;
  fate.lost = cells > 0 ? 1 - fate.kept - fate.merged : 0;
  return fate;
}

std::string evaluate_on(const std::shared_ptr<const Model>& model, const PlannedPrompt& prompt,
                        bool chat, const GenerationOptions& options, const LiveRunOptions& live,
                        const EvaluationCells& cells) {
  PromptOptions request;
  request.text = prompt.text;
  request.question = prompt.question;
  request.chat = chat;
  const auto tokenizer = model->file().tokenizer();
  const TokenTable tokens = read_prompt(request, *tokenizer);
  const TokenTable::Range needle = tokens.find(prompt.needle);
  Generation generation(model, tokens, options, live);
  const FullAnswer& full = generation.full();
  for (const Budget& budget : options.budgets) {
    for (const Method& method : options.methods) {
      if (!cells.wanted(method, budget)) {
        continue;
      }
      const MethodAnswer answer = generation.answer(method, budget);
      const MergeBooks books = merge_books(answer.decision);
      const NeedleFate fate = needle_fate(answer.decision, needle);
      EvaluatedRun run;
      run.model = cells.model;
      run.prompt = prompt.name;
      run.prompt_tokens = tokens.prompt_tokens;
      run.method = answer.method;
      run.keep = answer.keep;
      run.divergence = answer.mean_divergence();
      run.output_error = answer.mean_output_error();
      run.needle_kept = fate.kept;
      run.needle_merged = fate.merged;
      run.needle_lost = fate.lost;
      run.dropped = books.tokens > 0 ? books.dropped / static_cast<double>(books.tokens) : 0;
      run.answered = !prompt.answer.empty() && answer.text.find(prompt.answer) != std::string::npos;
      run.same = answer.first_divergence < 0;
      run.mean_bytes = answer.mean_bytes();
      run.peak_bytes = static_cast<double>(answer.peak_bytes());
      run.full_bytes = mean_of(full.step_bytes, full.cache_bytes);
      run.full_seconds = generation.prefill_seconds();
      run.seconds = answer.compress_seconds + (method.cuts_while_reading() ? 0 : run.full_seconds);
      cells.done(method, budget, run);
    }
  }
  return full.text;
}

std::vector<EvaluatedRun> means(const std::vector<EvaluatedRun>& runs) {
  std::vector<EvaluatedRun> rows;
  std::vector<double> counts;
  constexpr double EvaluatedRun::*averaged[] = {
      &EvaluatedRun::divergence,    &EvaluatedRun::output_error, &EvaluatedRun::needle_kept,
      &EvaluatedRun::needle_merged, &EvaluatedRun::needle_lost,  &EvaluatedRun::dropped,
      &EvaluatedRun::mean_bytes,    &EvaluatedRun::peak_bytes,   &EvaluatedRun::full_bytes,
      &EvaluatedRun::seconds,       &EvaluatedRun::full_seconds};
  for (const EvaluatedRun& run : runs) {
    auto row = std::find_if(rows.begin(), rows.end(), [&](const EvaluatedRun& other) {
      return other.model == run.model && other.method == run.method && other.keep == run.keep;
    });
    if (row == rows.end()) {
      rows.push_back(run);
      rows.back().prompt = "mean";
      counts.push_back(1);
      continue;
    }
    counts[static_cast<std::size_t>(row - rows.begin())] += 1;
    for (const auto member : averaged) {
      (*row).*member += run.*member;
    }
    row->prompt_tokens += run.prompt_tokens;
    row->answered = row->answered && run.answered;
    row->same = row->same && run.same;
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (const auto member : averaged) {
      rows[i].*member /= counts[i];
    }
    rows[i].prompt_tokens = static_cast<int>(std::lround(rows[i].prompt_tokens / counts[i]));
  }
  return rows;
}

bool memory_matches(const EvaluatedRun& run, const std::vector<EvaluatedRun>& same_budget) {
  std::vector<double> shares;
  for (const EvaluatedRun& other : same_budget) {
    if (other.model == run.model && other.keep == run.keep && other.prompt == run.prompt) {
      shares.push_back(other.mean_bytes / other.full_bytes);
    }
  }
  const auto middle = shares.begin() + static_cast<std::ptrdiff_t>(shares.size() / 2);
  std::nth_element(shares.begin(), middle, shares.end());
  const double own = run.mean_bytes / run.full_bytes;
  return shares.empty() || std::abs(own - *middle) <= comparable_memory * *middle;
}

}  // namespace kvscope::cli
