#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "decide/check.h"
#include "decide/describe.h"
#include "decide/finish.h"
#include "decide/job.h"
#include "decide/slots.h"
#include "kvscope/core/error.h"
#include "kvscope/evidence/model_run.h"
#include "registry/method_pieces.h"

namespace kvscope {
namespace {

using detail::Job;
using detail::SharedScores;

/// Sets LibTorch's thread count for one scope; 0 leaves it.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(at::get_num_threads()) {
    if (threads > 0) {
      at::set_num_threads(threads);
    }
  }
  ~ThreadScope() {
    if (at::get_num_threads() != before_) {
      at::set_num_threads(before_);
    }
  }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

std::vector<float> to_host(const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu().contiguous();
  const float* first = host.data_ptr<float>();
  return {first, first + host.numel()};
}

class Decider {
 public:
  Decider(ModelRun& run, const DecideOptions& options)
      : run_(run), options_(options), start_(std::chrono::steady_clock::now()) {
    scope_ = detail::scope_of(run);
    KVSCOPE_CHECK(scope_.tokens > 0, ErrorCode::usage, "the run has not seen a token", "decide",
                  "run the prompt first");
    if (options.before != nullptr && !options.before->events.empty()) {
      cut_before_ = true;
      scope_.tokens = run.layer(0)->slots().slots;
    }
  }

  void add(const Method& method, const Budget& budget) {
    const detail::Parts& parts = method.pieces().parts;
    KVSCOPE_CHECK(
        !parts.cadence || parts.cadence->decides_once(), ErrorCode::unsupported,
        fmt::format("method '{}' cuts while the model runs, and each cut changes what the "
                    "model computes next",
                    method.text()),
        "decide", "let it decide live: kvscope generate, or kvscope capture --method");
    parts.scorer->check({run_.shape(), run_.model_hash(), run_.tokens().prompt_tokens});
    const Protection protection = parts.scorer->protect_in_run(
        {run_.tokens_seen(), run_.tokens().prompt_tokens, budget.slots_per_head(scope_)});
    detail::check_protected(method, budget, scope_, protection.count);
    const std::size_t scores = shared_scores(method, budget);
    jobs_.push_back({method, budget, scores, protection, protection, Decision{}, {}, {}, {}});
    if (jobs_.back().needs_every_layer()) {
      shared_[scores].across_layers = true;
    }
  }

  std::vector<Decision> run() {
    for (int layer = 0; layer < scope_.layers; ++layer) {
      score_and_finish(layer);
    }
    finish_across_layers();
    std::vector<Decision> decisions;
    for (Job& job : jobs_) {
      describe(job);
      if (cut_before_) {
        place(job);
      }
      validate(job.decision,
               fmt::format("method '{}' at {}", job.method.text(), job.budget.text()));
      decisions.push_back(std::move(job.decision));
    }
    return decisions;
  }

 private:
  std::size_t shared_scores(const Method& method, const Budget& budget) {
    const Scorer& scorer = *method.pieces().parts.scorer;
    const std::string text =
        method.pieces().scorer_text + (scorer.reads_budget() ? " @ " + budget.text() : "");
    for (std::size_t index = 0; index < shared_.size(); ++index) {
      if (shared_[index].text == text) {
        return index;
      }
    }
    SharedScores scores;
    scores.scorer = &scorer;
    scores.text = text;
    const int slots = budget.slots_per_head(scope_);
    scores.share = {slots, budget.unit() == Budget::Unit::fraction
                               ? budget.fraction()
                               : static_cast<double>(slots) / scope_.tokens};
    scores.layers.resize(static_cast<std::size_t>(scope_.layers));
    shared_.push_back(std::move(scores));
    return shared_.size() - 1;
  }

  /// Reads one layer once: scores it for every method, and decides it for those that need no other.
  void score_and_finish(int layer) {
    const std::unique_ptr<LayerEvidence> evidence = run_.layer(layer);
    check_slots(*evidence, layer);
    for (SharedScores& shared : shared_) {
      LayerScores scores =
          shared.scorer->reads_budget()
              ? shared.scorer->score_within(*evidence, shared.share, options_.terms)
              : shared.scorer->score(*evidence, options_.terms);
      if (shared.scorer->settles()) {
        shared.raw.push_back(std::move(scores));
        continue;
      }
      shared.layers[static_cast<std::size_t>(layer)] = to_host(scores.scores);
      shared.terms =
          options_.terms && scores.terms.defined() ? to_host(scores.terms) : std::vector<float>{};
    }
    for (Job& job : jobs_) {
      SharedScores& shared = shared_[job.scores];
      if (job.parts().allocator->measures()) {
        job.measured.push_back(job.parts().allocator->measure(*evidence));
      }
      if (!job.needs_every_layer()) {
        check_layer(job, layer);
        finish(job, *evidence, allocate(job, layer, 1), 0);
      }
      if (!shared.terms.empty()) {
        job.terms.push_back(shared.terms);
      }
    }
    for (SharedScores& shared : shared_) {
      if (!shared.across_layers) {
        shared.layers[static_cast<std::size_t>(layer)] = {};
      }
    }
  }

  /// Scores of a method whose scorer had to see every layer first.
  void settle(Job& job) const {
    const Scorer& scorer = *job.parts().scorer;
    const std::vector<LayerScores> settled = scorer.settle(
        shared_[job.scores].raw, {scope_.kv_heads, job.protection, tables_, options_.terms});
    for (const LayerScores& layer : settled) {
      job.settled.push_back(to_host(layer.scores));
      if (options_.terms && layer.terms.defined()) {
        job.terms.push_back(to_host(layer.terms));
      }
    }
    KVSCOPE_CHECK(job.settled.size() == static_cast<std::size_t>(scope_.layers), ErrorCode::failed,
                  fmt::format("method '{}' settled {} of {} layers", job.method.text(),
                              job.settled.size(), scope_.layers),
                  "decide", "report the method's author");
  }

  void finish_across_layers() {
    std::vector<std::pair<Job*, Allocation>> waiting;
    for (Job& job : jobs_) {
      if (!job.needs_every_layer()) {
        continue;
      }
      if (job.parts().scorer->settles()) {
        settle(job);
      }
      for (int layer = 0; layer < scope_.layers; ++layer) {
        check_layer(job, layer);
      }
      waiting.emplace_back(
          &job, job.ranks_the_model() ? allocate(job, 0, scope_.layers) : Allocation(0, 0, 0));
    }
    // Evidence is lazy: a layer is read again only for what selectors and mergers ask of it.
    for (int layer = 0; !waiting.empty() && layer < scope_.layers; ++layer) {
      const std::unique_ptr<LayerEvidence> evidence = run_.layer(layer);
      for (auto& [job, allocation] : waiting) {
        if (job->ranks_the_model()) {
          finish(*job, *evidence, allocation, layer);
        } else {
          finish(*job, *evidence, allocate(*job, layer, 1), 0);
        }
      }
    }
  }

  /// A cache is decided on whole, or with the same number of slots in every layer and KV head.
  void check_slots(const LayerEvidence& evidence, int layer) {
    const SlotTable& slots = evidence.slots();
    if (!cut_before_) {
      KVSCOPE_CHECK(detail::is_full(slots, scope_.kv_heads, scope_.tokens), ErrorCode::unsupported,
                    "the cache has already been compressed", fmt::format("layer {}", layer),
                    "decide on the full cache, before applying");
      return;
    }
    detail::check_even(slots, scope_.kv_heads, scope_.tokens, layer);
    for (Job& job : jobs_) {
      const Protection here = detail::over_slots(job.by_token, slots, layer);
      KVSCOPE_CHECK(layer == 0 || here.reason == job.protection.reason, ErrorCode::unsupported,
                    "layers hold protected tokens in different slots",
                    fmt::format("layer {}", layer), "protect the oldest or the newest tokens");
      job.protection = here;
    }
    tables_.push_back(slots);
  }

  /// Turns slots into tokens, and adds the cut to what was decided before.
  void place(Job& job) const {
    const int event = static_cast<int>(job.decision.events.size()) - 1;
    for (LayerDecision& layer : job.decision.layers) {
      const auto index = static_cast<std::size_t>(layer.layer);
      layer = detail::over_tokens(
          layer, {tables_[index], options_.before->layers[index], run_.tokens_seen(), event});
    }
  }

  /// What selectors rank: [kv_heads, tokens].
  const std::vector<float>& scores_of(const Job& job, int layer) const {
    const detail::Planes& planes = job.settled.empty() ? shared_[job.scores].layers : job.settled;
    return planes[static_cast<std::size_t>(layer)];
  }

  detail::LayerWork work(const Job& job, int layer, const Allocation* allocation, int row) const {
    const std::ptrdiff_t first = std::ptrdiff_t{row} * scope_.kv_heads;
    return {layer,
            scope_.kv_heads,
            scores_of(job, layer),
            job.protection,
            allocation == nullptr ? nullptr : allocation->slots.data() + first,
            allocation == nullptr ? nullptr : allocation->floor_only.data() + first,
            allocation == nullptr ? -1 : allocation->guaranteed,
            {},
            {&job.budget, job.budget.slots_per_head(scope_)}};
  }

  void check_layer(const Job& job, int layer) const {
    const std::vector<float>& scores = scores_of(job, layer);
    KVSCOPE_CHECK(scores.size() == static_cast<std::size_t>(scope_.kv_heads) *
                                       static_cast<std::size_t>(scope_.tokens),
                  ErrorCode::failed,
                  fmt::format("method '{}' returned {} scores for {} KV heads x {} tokens",
                              job.method.text(), scores.size(), scope_.kv_heads, scope_.tokens),
                  fmt::format("layer {}", layer), "report the method's author");
    detail::check_scores(work(job, layer, nullptr, 0), job.method.text());
  }

  Allocation allocate(const Job& job, int first_layer, int layers) const {
    if (!job.parts().selector->fills_grant()) {
      return {layers, scope_.kv_heads, scope_.tokens};
    }
    const std::span<const std::vector<float>> all(job.settled.empty() ? shared_[job.scores].layers
                                                                      : job.settled);
    const auto first = static_cast<std::size_t>(first_layer);
    const auto count = static_cast<std::size_t>(layers);
    const std::span<const double> measured(job.measured);
    const AllocationRequest request{job.budget,
                                    scope_,
                                    job.protection,
                                    first_layer,
                                    all.subspan(first, count),
                                    measured.empty() ? measured : measured.subspan(first, count)};
    return job.parts().allocator->allocate(request);
  }

  /// Selects and merges one layer; its share stands in row `row` of the allocation.
  void finish(Job& job, const LayerEvidence& evidence, const Allocation& allocation,
              int row) const {
    detail::LayerWork layer = work(job, evidence.moment().layer, &allocation, row);
    layer.rows = detail::selector_rows(job.parts(), evidence);
    job.decision.layers.push_back(detail::select_layer(layer, job.parts(), options_.scores));
    if (job.parts().merger) {
      const MergeRequest request{evidence, layer.scores, steps_since_cut(), !cut_before_};
      job.parts().merger->merge(request, job.decision.layers.back());
    }
  }

  int steps_since_cut() const {
    return run_.step() - (cut_before_ ? options_.before->events.back().step : 0);
  }

  void describe(Job& job) const {
    Decision& decision = job.decision;
    detail::describe(decision, run_, job.method, job.budget, scope_);
    decision.tokens = decision.cut_tokens = run_.tokens_seen();
    decision.replay_exact = decision.replay_exact && !job.parts().cadence;
    if (cut_before_) {
      decision.events = options_.before->events;
    }
    decision.events.push_back({run_.step(), run_.tokens_seen(), wall_ns()});
    if (!job.terms.empty()) {
      for (const TermInfo& term : job.method.pieces().arguments.front().info().terms) {
        decision.term_names.push_back(term.name);
      }
      for (std::size_t layer = 0; layer < job.terms.size(); ++layer) {
        decision.layers[layer].terms = std::move(job.terms[layer]);
      }
    }
  }

  /// A replay's time says nothing about the run, and would differ from one call to the next.
  std::int64_t wall_ns() const {
    const auto elapsed = std::chrono::steady_clock::now() - start_;
    return run_.live() ? std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count() : 0;
  }

  ModelRun& run_;
  DecideOptions options_;
  std::chrono::steady_clock::time_point start_;
  BudgetScope scope_;  ///< tokens: slots of a KV head, which are tokens on a full cache
  bool cut_before_ = false;
  std::vector<SlotTable> tables_;  ///< [layers] of a cache that was cut before
  std::vector<SharedScores> shared_;
  std::vector<Job> jobs_;
};

}  // namespace

std::vector<Decision> decide_all(ModelRun& run, const std::vector<Method>& methods,
                                 const std::vector<Budget>& budgets, const DecideOptions& options) {
  const at::NoGradGuard no_grad;
  const ThreadScope threads(options.threads);
  Decider decider(run, options);
  for (const Method& method : methods) {
    for (const Budget& budget : budgets) {
      decider.add(method, budget);
    }
  }
  return decider.run();
}

Decision decide(ModelRun& run, const Method& method, const Budget& budget,
                const DecideOptions& options) {
  const at::NoGradGuard no_grad;
  const ThreadScope threads(options.threads);
  Decider decider(run, options);
  decider.add(method, budget);
  return std::move(decider.run().front());
}

}  // namespace kvscope
