#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "evaluation.h"

namespace kvscope::cli {
namespace {

constexpr const char* legend =
    "Means over the prompts; the full run's own tokens are fed to both. KL: of the next token, "
    "full\n"
    "against compressed, nats. error: relative L2 of attention's output after W_O, over layers. "
    "needle:\n"
    "share of its cells (layer, KV head, token) that keep their slot + are merged into one that is "
    "left.\n"
    "dropped: share of all tokens lost inside merges. answers: prompts whose own answer holds the "
    "right\n"
    "one. cache: bytes over the full cache's, mean over the answer (peak). time: until the answer\n"
    "begins, over the full prefill.\n";

std::string one_paragraph(std::string text) {
  std::replace(text.begin(), text.end() - 1, '\n', ' ');
  return text;
}

/// The models' names, in order.
std::vector<std::string> models_of(const std::vector<EvaluatedRun>& runs) {
  std::vector<std::string> names;
  for (const EvaluatedRun& run : runs) {
    if (std::find(names.begin(), names.end(), run.model) == names.end()) {
      names.push_back(run.model);
    }
  }
  return names;
}

/// How many prompts of this method and budget were answered.
std::string answered(const std::vector<EvaluatedRun>& runs, const EvaluatedRun& row) {
  int right = 0;
  int all = 0;
  for (const EvaluatedRun& run : runs) {
    if (run.model == row.model && run.method == row.method && run.keep == row.keep) {
      ++all;
      right += run.answered ? 1 : 0;
    }
  }
  return fmt::format("{}/{}", right, all);
}

struct Cells {
  std::string keep, method, kl, error, needle, dropped, answers, cache, time;
};

/// A row whose memory does not match its neighbours' says so instead of inviting a comparison.
Cells cells_of(const std::vector<EvaluatedRun>& runs, const std::vector<EvaluatedRun>& rows,
               const EvaluatedRun& row, bool any_memory) {
  Cells cells;
  cells.keep = row.keep;
  cells.method = row.method;
  cells.kl = fmt::format("{:.3f}", row.divergence);
  cells.error = fmt::format("{:.3f}", row.output_error);
  cells.needle = row.needle_merged > 0 ? fmt::format("{:.0f} + {:.0f} %", 100 * row.needle_kept,
                                                     100 * row.needle_merged)
                                       : fmt::format("{:.0f} %", 100 * row.needle_kept);
  cells.dropped = row.dropped > 0 ? fmt::format("{:.1f} %", 100 * row.dropped) : "0";
  cells.answers = answered(runs, row);
  cells.cache = fmt::format("{:.1f} % ({:.1f} %){}", 100 * row.mean_bytes / row.full_bytes,
                            100 * row.peak_bytes / row.full_bytes,
                            any_memory || memory_matches(row, rows) ? "" : " !");
  cells.time = fmt::format("{:.2f} x", row.seconds / row.full_seconds);
  return cells;
}

bool any_unmatched(const std::vector<EvaluatedRun>& rows) {
  return std::any_of(rows.begin(), rows.end(),
                     [&](const EvaluatedRun& row) { return !memory_matches(row, rows); });
}

constexpr const char* unmatched =
    "! The mean cache differs by more than 5 % from the median at this budget: not comparable\n"
    "(--any-memory drops the mark).\n";

}  // namespace

nlohmann::ordered_json run_json(const EvaluatedRun& run) {
  return {{"prompt", run.prompt},
          {"prompt_tokens", run.prompt_tokens},
          {"method", run.method},
          {"keep", run.keep},
          {"next_token_kl_nats", run.divergence},
          {"output_error", run.output_error},
          {"needle_kept", run.needle_kept},
          {"needle_merged", run.needle_merged},
          {"needle_lost", run.needle_lost},
          {"dropped_share", run.dropped},
          {"answered", run.answered},
          {"same_answer", run.same},
          {"mean_cache_bytes", run.mean_bytes},
          {"peak_cache_bytes", run.peak_bytes},
          {"full_cache_bytes", run.full_bytes},
          {"seconds", run.seconds},
          {"full_prefill_seconds", run.full_seconds},
          {"model", run.model}};
}

EvaluatedRun run_of_json(const nlohmann::ordered_json& json) {
  EvaluatedRun run;
  json.at("prompt").get_to(run.prompt);
  json.at("prompt_tokens").get_to(run.prompt_tokens);
  json.at("method").get_to(run.method);
  json.at("keep").get_to(run.keep);
  json.at("next_token_kl_nats").get_to(run.divergence);
  json.at("output_error").get_to(run.output_error);
  json.at("needle_kept").get_to(run.needle_kept);
  json.at("needle_merged").get_to(run.needle_merged);
  json.at("needle_lost").get_to(run.needle_lost);
  json.at("dropped_share").get_to(run.dropped);
  json.at("answered").get_to(run.answered);
  json.at("same_answer").get_to(run.same);
  json.at("mean_cache_bytes").get_to(run.mean_bytes);
  json.at("peak_cache_bytes").get_to(run.peak_bytes);
  json.at("full_cache_bytes").get_to(run.full_bytes);
  json.at("seconds").get_to(run.seconds);
  json.at("full_prefill_seconds").get_to(run.full_seconds);
  json.at("model").get_to(run.model);
  return run;
}

std::string evaluation_text(const std::vector<EvaluatedRun>& runs, bool any_memory) {
  const std::vector<EvaluatedRun> rows = means(runs);
  std::size_t width = 6;
  for (const EvaluatedRun& row : rows) {
    width = std::max(width, row.method.size());
  }
  const auto line = [width](const Cells& c) {
    return fmt::format("{:>6}  {:<{}}  {:>8} {:>8} {:>12} {:>8} {:>8} {:>18} {:>8}\n", c.keep,
                       c.method, width, c.kl, c.error, c.needle, c.dropped, c.answers, c.cache,
                       c.time);
  };
  const std::vector<std::string> models = models_of(runs);
  std::string text;
  for (const std::string& model : models) {
    text += models.size() > 1 ? fmt::format("{}{}\n", text.empty() ? "" : "\n", model) : "";
    text += line(
        {"keep", "method", "KL", "error", "needle", "dropped", "answers", "cache (peak)", "time"});
    for (const EvaluatedRun& row : rows) {
      text += row.model == model ? line(cells_of(runs, rows, row, any_memory)) : "";
    }
  }
  text += std::string("\n") + legend;
  return !any_memory && any_unmatched(rows) ? text + unmatched : text;
}

std::string evaluation_markdown(const std::vector<EvaluatedRun>& runs, bool any_memory) {
  const std::vector<EvaluatedRun> rows = means(runs);
  const bool several = models_of(runs).size() > 1;
  std::string text =
      fmt::format("{}| keep | method | KL | error | needle | dropped | answers | cache (peak) | "
                  "time |\n{}| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
                  several ? "| model " : "", several ? "| --- " : "");
  for (const EvaluatedRun& row : rows) {
    const Cells c = cells_of(runs, rows, row, any_memory);
    text += several ? fmt::format("| {} ", row.model) : "";
    text += fmt::format("| {} | `{}` | {} | {} | {} | {} | {} | {} | {} |\n", c.keep, c.method,
                        c.kl, c.error, c.needle, c.dropped, c.answers, c.cache, c.time);
  }
  text += "\n" + one_paragraph(legend);
  return !any_memory && any_unmatched(rows) ? text + one_paragraph(unmatched) : text;
}

std::string evaluation_csv(const std::vector<EvaluatedRun>& runs) {
  std::string text;
  for (const EvaluatedRun& run : runs) {
    const nlohmann::ordered_json row = run_json(run);
    if (text.empty()) {
      for (const auto& [key, value] : row.items()) {
        text += (text.empty() ? "" : ",") + key;
      }
      text += "\r\n";
    }
    std::string line;
    for (const auto& [key, value] : row.items()) {
      std::string cell = value.is_string() ? value.get<std::string>() : value.dump();
      if (cell.find_first_of(",\"\r\n") != std::string::npos) {
        std::string quoted = "\"";
        for (const char c : cell) {
          quoted += c == '"' ? "\"\"" : std::string(1, c);
        }
        cell = quoted + "\"";
      }
      line += (line.empty() ? "" : ",") + cell;
    }
    text += line + "\r\n";
  }
  return text;
}

nlohmann::ordered_json evaluation_json(const std::vector<EvaluatedRun>& runs) {
  nlohmann::ordered_json prompts = nlohmann::ordered_json::array();
  for (const EvaluatedRun& run : runs) {
    prompts.push_back(run_json(run));
  }
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  const std::vector<EvaluatedRun> all = means(runs);
  for (const EvaluatedRun& row : all) {
    rows.push_back(run_json(row));
    rows.back()["memory_matched"] = memory_matches(row, all);
    rows.back()["answers"] = answered(runs, row);
    rows.back().erase("answered");
    rows.back().erase("same_answer");
  }
  return {{"format", "kvscope.evaluation"},
          {"version_major", 1},
          {"model", fmt::format("{}", fmt::join(models_of(runs), ", "))},
          {"runs", prompts},
          {"means", rows}};
}

}  // namespace kvscope::cli
