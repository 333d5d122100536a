#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "decide/finish.h"
#include "kvscope/core/error.h"
#include "kvscope/evidence/model_run.h"
#include "registry/method_pieces.h"

namespace kvscope {
namespace {

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

/// Scores of one scorer, shared by the methods that name it alike.
struct SharedScores {
  const Scorer* scorer = nullptr;
  std::string text;
  bool across_layers = false;              ///< some method ranks the whole model
  std::vector<std::vector<float>> layers;  ///< [layers] of [kv_heads, tokens]; cleared when done
  std::vector<float> terms;                ///< of the current layer
};

/// One method at one budget.
struct Job {
  const Method& method;
  const Budget& budget;
  std::size_t scores;  ///< index into the shared scores
  Protection protection;
  Decision decision;
  std::vector<std::vector<float>> terms;  ///< [layers] of [terms, kv_heads, tokens]

  const detail::Parts& parts() const { return method.pieces().parts; }
  bool ranks_the_model() const { return parts().allocator->scope() == Allocator::Scope::model; }
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
    const ModelShape& shape = run.shape();
    scope_.tokens = run.tokens_seen();
    scope_.layers = shape.layers;
    scope_.kv_heads = shape.kv_heads;
    scope_.slot_bytes = std::int64_t{2} * shape.head_dim * std::int64_t{sizeof(float)};
    KVSCOPE_CHECK(scope_.tokens > 0, ErrorCode::usage, "the run has not seen a token", "decide",
                  "run the prompt first");
  }

  void add(const Method& method, const Budget& budget) {
    const detail::Parts& parts = method.pieces().parts;
    const int slots = budget.slots_per_head(scope_);
    Protection protection = parts.scorer->protect(scope_.tokens, slots);
    if (parts.selector->fills_grant()) {
      check_budget(method, budget, protection.count);
    }
    const std::size_t scores = shared_scores(method);
    jobs_.push_back({method, budget, scores, std::move(protection), Decision{}, {}});
    if (jobs_.back().ranks_the_model()) {
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
      validate(job.decision,
               fmt::format("method '{}' at {}", job.method.text(), job.budget.text()));
      decisions.push_back(std::move(job.decision));
    }
    return decisions;
  }

 private:
  void check_budget(const Method& method, const Budget& budget, int protected_tokens) const {
    const int least =
        method.pieces().parts.allocator->smallest_grant(budget, scope_, protected_tokens);
    KVSCOPE_CHECK(
        protected_tokens <= least, ErrorCode::usage,
        fmt::format("method '{}' protects {} tokens, but budget {} leaves a KV head {} slots of {} "
                    "tokens",
                    method.text(), protected_tokens, budget.text(), least, scope_.tokens),
        "--keep",
        fmt::format("keep at least {} slots, or protect fewer tokens (kvscope methods {})",
                    protected_tokens, method.preset()));
  }

  std::size_t shared_scores(const Method& method) {
    const std::string& text = method.pieces().scorer_text;
    for (std::size_t index = 0; index < shared_.size(); ++index) {
      if (shared_[index].text == text) {
        return index;
      }
    }
    SharedScores scores;
    scores.scorer = method.pieces().parts.scorer.get();
    scores.text = text;
    scores.layers.resize(static_cast<std::size_t>(scope_.layers));
    shared_.push_back(std::move(scores));
    return shared_.size() - 1;
  }

  /// Reads one layer once: scores it for every method, and decides it for those that need no other.
  void score_and_finish(int layer) {
    const std::unique_ptr<LayerEvidence> evidence = run_.layer(layer);
    check_full_cache(*evidence, layer);
    for (SharedScores& shared : shared_) {
      LayerScores scores = shared.scorer->score(*evidence, options_.terms);
      shared.layers[static_cast<std::size_t>(layer)] = to_host(scores.scores);
      shared.terms =
          options_.terms && scores.terms.defined() ? to_host(scores.terms) : std::vector<float>{};
    }
    for (Job& job : jobs_) {
      SharedScores& shared = shared_[job.scores];
      check_layer(job, layer);
      if (!job.ranks_the_model()) {
        const Allocation allocation = allocate(job, layer, 1);
        finish(job, layer, allocation, 0);
        merge(job, *evidence, job.decision.layers.back());
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

  void finish_across_layers() {
    bool merges = false;
    for (Job& job : jobs_) {
      if (job.ranks_the_model()) {
        const Allocation allocation = allocate(job, 0, scope_.layers);
        for (int layer = 0; layer < scope_.layers; ++layer) {
          finish(job, layer, allocation, layer);
        }
        merges = merges || job.parts().merger != nullptr;
      }
    }
    for (int layer = 0; merges && layer < scope_.layers; ++layer) {
      const std::unique_ptr<LayerEvidence> evidence = run_.layer(layer);
      for (Job& job : jobs_) {
        if (job.ranks_the_model()) {
          merge(job, *evidence, job.decision.layers[static_cast<std::size_t>(layer)]);
        }
      }
    }
  }

  /// Methods decide on a whole cache: every head holds tokens [0, tokens seen).
  void check_full_cache(const LayerEvidence& evidence, int layer) const {
    const SlotTable& slots = evidence.slots();
    bool full = slots.kv_heads == scope_.kv_heads && slots.unmerged();
    for (int kv_head = 0; full && kv_head < slots.kv_heads; ++kv_head) {
      full = slots.length[static_cast<std::size_t>(kv_head)] == scope_.tokens;
    }
    KVSCOPE_CHECK(full, ErrorCode::unsupported, "the cache has already been compressed",
                  fmt::format("layer {}", layer), "decide on the full cache, before applying");
  }

  detail::LayerWork work(const Job& job, int layer, const Allocation* allocation, int row) const {
    const std::ptrdiff_t first = std::ptrdiff_t{row} * scope_.kv_heads;
    return {layer,
            scope_.kv_heads,
            shared_[job.scores].layers[static_cast<std::size_t>(layer)],
            job.protection,
            allocation == nullptr ? nullptr : allocation->slots.data() + first,
            allocation == nullptr ? nullptr : allocation->floor_only.data() + first};
  }

  void check_layer(const Job& job, int layer) const {
    const std::vector<float>& scores = shared_[job.scores].layers[static_cast<std::size_t>(layer)];
    KVSCOPE_CHECK(scores.size() == static_cast<std::size_t>(scope_.kv_heads) *
                                       static_cast<std::size_t>(scope_.tokens),
                  ErrorCode::failed,
                  fmt::format("method '{}' returned {} scores for {} KV heads x {} tokens",
                              job.method.text(), scores.size(), scope_.kv_heads, scope_.tokens),
                  fmt::format("layer {}", layer), "report the method's author");
    detail::check_scores(work(job, layer, nullptr, 0), job.method.text());
  }

  Allocation allocate(const Job& job, int first_layer, int layers) const {
    const std::span<const std::vector<float>> all(shared_[job.scores].layers);
    const AllocationRequest request{
        job.budget, scope_, job.protection, first_layer,
        all.subspan(static_cast<std::size_t>(first_layer), static_cast<std::size_t>(layers))};
    return job.parts().allocator->allocate(request);
  }

  void finish(Job& job, int layer, const Allocation& allocation, int row) const {
    job.decision.layers.push_back(
        detail::select_layer(work(job, layer, &allocation, row), job.parts(), options_.scores));
  }

  static void merge(const Job& job, const LayerEvidence& evidence, LayerDecision& layer) {
    if (job.parts().merger) {
      job.parts().merger->merge(evidence, layer);
    }
  }

  void describe(Job& job) const {
    const Method& method = job.method;
    Decision& decision = job.decision;
    decision.method = method.text();
    decision.preset = method.preset();
    decision.descriptor_json = method.descriptor_json();
    decision.keep = job.budget.text();
    decision.rounding = job.budget.rounding() == Budget::Rounding::reference ? "reference" : "ours";
    decision.budget_slots = job.budget.total_slots(scope_);
    decision.by_method = method.by_method();
    decision.replayed = !run_.live();
    decision.replay_exact = run_.step() == 0;
    decision.capture_hash = run_.capture_hash();
    decision.model_name = run_.model_name();
    decision.query_heads = run_.shape().query_heads;
    decision.kv_heads = scope_.kv_heads;
    decision.head_dim = run_.shape().head_dim;
    decision.tokens = scope_.tokens;
    decision.cut_tokens = scope_.tokens;
    decision.form = method.form();
    // A replay's time says nothing about the run, and would differ from one call to the next.
    const auto elapsed = std::chrono::steady_clock::now() - start_;
    decision.events = {
        {run_.step(), scope_.tokens,
         run_.live() ? std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count() : 0}};
    if (!job.terms.empty()) {
      for (const TermInfo& term : method.pieces().arguments.front().info().terms) {
        decision.term_names.push_back(term.name);
      }
      for (std::size_t layer = 0; layer < job.terms.size(); ++layer) {
        decision.layers[layer].terms = std::move(job.terms[layer]);
      }
    }
  }

  ModelRun& run_;
  DecideOptions options_;
  std::chrono::steady_clock::time_point start_;
  BudgetScope scope_;
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

Decision compress(ModelRun& run, const Method& method, const Budget& budget,
                  const DecideOptions& options) {
  Decision decision = decide(run, method, budget, options);
  run.apply(decision);
  return decision;
}

}  // namespace kvscope
