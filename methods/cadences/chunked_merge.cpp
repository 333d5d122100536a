#include "cadences/chunked_merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "decide/describe.h"
#include "kvscope/core/error.h"
#include "kvscope/evidence/model_run.h"
#include "registry/method_pieces.h"

namespace kvscope::detail {
namespace {

class ChunkedMerge final : public Compressor {
 public:
  ChunkedMerge(ModelRun& run, const Method& method, const Budget& budget,
               const DecideOptions& options, const ChunkPlan& plan, const PairMergeRule& rule,
               std::unique_ptr<PairWeigher> weigher)
      : run_(&run),
        method_(&method),
        plan_(plan),
        rule_(rule),
        ledger_{options.scores, options.terms},
        weigher_(std::move(weigher)) {
    BudgetScope scope = scope_of(run);
    scope.tokens = run.tokens().prompt_tokens;
    describe(decision_, run, method, budget, scope);
    decision_.tokens = decision_.cut_tokens = 0;
    if (options.terms) {
      decision_.term_names = {"pair_mass", "recency", "multiplicity"};
    }
    for (int layer = 0; layer < run.shape().layers; ++layer) {
      decision_.layers.push_back(LayerDecision::keep_all(layer, run.shape().kv_heads, 0));
    }
  }

  void prefill() override {
    run_->store_as(method_->form());
    const std::vector<std::int32_t> prompt(
        run_->tokens().id.begin(), run_->tokens().id.begin() + run_->tokens().prompt_tokens);
    const auto total = static_cast<int>(prompt.size());
    for (int first = 0; first < total; ++chunk_) {
      const int count = plan_.length(first, total);
      const std::span<const std::int32_t> chunk = std::span(prompt).subspan(
          static_cast<std::size_t>(first), static_cast<std::size_t>(count));
      if (chunk_ > 0 && count > 1 && (weigher_->remembers() || slots_ > plan_.cache)) {
        look_back(chunk, false);
      }
      first += count;
      if (plan_.final_cut && first == total && slots_ + count > plan_.cache) {
        look_back(chunk, true);
      } else {
        run_->forward(chunk, {});
        slots_ += count;
      }
    }
    finish(total);
  }

  Decision decision() const override { return decision_; }

  std::unique_ptr<Compressor> onto(ModelRun& fork) const override {
    auto copy = std::unique_ptr<ChunkedMerge>(new ChunkedMerge(*this));
    copy->run_ = &fork;
    return copy;
  }

 private:
  ChunkedMerge(const ChunkedMerge& other)
      : run_(other.run_),
        method_(other.method_),
        plan_(other.plan_),
        rule_(other.rule_),
        ledger_(other.ledger_),
        weigher_(other.weigher_->clone()),
        decision_(other.decision_),
        chunk_(other.chunk_),
        slots_(other.slots_) {}

  /// One pass of the chunk that shows every layer, then the cut. `append`: the chunk is read by
  /// this pass and may be cut itself (ours, at the end of the prompt: as if one more chunk came).
  void look_back(std::span<const std::int32_t> chunk, bool append) {
    const auto start = std::chrono::steady_clock::now();
    const auto count = static_cast<int>(chunk.size());
    const int past = append ? slots_ + count : slots_;
    const int remove = std::min(past - plan_.cache, past - plan_.sink - 1);
    const auto event = static_cast<int>(decision_.events.size());
    const int seen = run_->tokens_seen() + (append ? count : 0);
    ForwardRequest request;
    request.append = append;
    request.key_gradient = remove > 0 ? weigher_->gradient() : KeyGradient::none;
    request.observe = [&](const LayerEvidence& evidence) {
      const ChunkView view(evidence, past, plan_.sink, append ? chunk_ + 1 : chunk_, count);
      if (remove > 0 || weigher_->gradient() == KeyGradient::none) {
        weigher_->look(view);
      }
      if (remove > 0) {
        LayerDecision& layer = decision_.layers[static_cast<std::size_t>(view.layer)];
        widen(layer, seen);
        enter_cut(view, rule_, *weigher_, remove, event, ledger_, layer);
      }
    };
    run_->forward(chunk, request);
    slots_ += append ? count : 0;
    if (remove > 0) {
      const auto elapsed = std::chrono::steady_clock::now() - start;
      decision_.events.push_back(
          {0, seen, std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count()});
      decision_.tokens = decision_.cut_tokens = seen;
      run_->apply(decision_);
      slots_ -= remove;
    }
  }

  void finish(int total) {
    for (LayerDecision& layer : decision_.layers) {
      widen(layer, total);
      if (decision_.events.empty()) {
        layer = LayerDecision::keep_all(layer.layer, layer.kv_heads, total);
      }
    }
    decision_.tokens = total;
    if (decision_.events.empty()) {
      decision_.events.push_back({0, total, 0});
      decision_.cut_tokens = total;
    }
    note_remarks(decision_, weigher_->remarks());
    validate(decision_, fmt::format("method '{}' at {}", decision_.method, decision_.keep));
  }

  ModelRun* run_;
  const Method* method_;
  ChunkPlan plan_;
  PairMergeRule rule_;
  LedgerOptions ledger_;
  std::unique_ptr<PairWeigher> weigher_;
  Decision decision_;
  int chunk_ = 0;
  int slots_ = 0;
};

class ChunkedMergeCadence final : public Cadence {
 public:
  ChunkedMergeCadence(const ChunkOptions& options, const PairMergeRule& rule,
                      std::unique_ptr<PairWeigher> weigher)
      : options_(options), rule_(rule), weigher_(std::move(weigher)) {}

  std::unique_ptr<Compressor> start(ModelRun& run, const Method& method, const Budget& budget,
                                    const DecideOptions& options) const override {
    KVSCOPE_CHECK(run.live() && run.tokens_seen() == 0, ErrorCode::usage,
                  fmt::format("method '{}' cuts while the prompt is read, but the run has read {} "
                              "tokens of it",
                              method.text(), run.tokens_seen()),
                  run.model_name(), "start the method on a live run before its prefill");
    const RunPlan plan{run.shape(), run.model_hash(), run.tokens().prompt_tokens};
    return std::make_unique<ChunkedMerge>(run, method, budget, options,
                                          checked(method, budget, plan), rule_, weigher_->clone());
  }

  void check(const Method& method, const Budget& budget, const RunPlan& plan) const override {
    checked(method, budget, plan);
  }

  bool cuts_while_reading() const override { return true; }
  bool merges() const override { return true; }
  bool by_method() const override {
    return !options_.by_budget || options_.cache >= 0 || options_.final_cut == 0;
  }

 private:
  ChunkPlan checked(const Method& method, const Budget& budget, const RunPlan& plan) const {
    for (int layer = 0; layer < plan.shape.layers; ++layer) {
      KVSCOPE_CHECK(
          plan.shape.window_of(layer) == 0 && plan.shape.rope_of(layer).growth == RopeGrowth::fixed,
          ErrorCode::unsupported,
          fmt::format("method '{}' moves slots, but layer {} has a sliding window or a "
                      "rotation that grows with the sequence",
                      method.text(), layer),
          "the model", "use a method that keeps positions, or another model");
    }
    const BudgetScope scope{plan.prompt_tokens, plan.shape.layers, plan.shape.kv_heads,
                            std::int64_t{2} * plan.shape.head_dim * std::int64_t{sizeof(float)}};
    return plan_chunks(options_, plan.prompt_tokens, budget, budget.slots_per_head(scope),
                       method.text());
  }

  ChunkOptions options_;
  PairMergeRule rule_;
  std::unique_ptr<PairWeigher> weigher_;
};

}  // namespace

std::unique_ptr<Cadence> make_chunked_merge(const ChunkOptions& options, const PairMergeRule& rule,
                                            std::unique_ptr<PairWeigher> weigher) {
  return std::make_unique<ChunkedMergeCadence>(options, rule, std::move(weigher));
}

}  // namespace kvscope::detail
