#include "decide/finish.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "kvscope/core/error.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Writes one head's fates. `kept` is best first.
class HeadWriter {
 public:
  HeadWriter(const LayerWork& work, int kv_head, LayerDecision& decision)
      : work_(work), kv_head_(kv_head), decision_(decision) {}

  void write(const std::vector<int>& kept, const Parts& parts) {
    const Reason lost_reason = parts.selector->reason();
    const int tokens = decision_.tokens;
    for (int token = 0; token < tokens; ++token) {
      const Reason rule = work_.protection.reason[static_cast<std::size_t>(token)];
      set(token, rule == Reason::score ? Fate::evicted : Fate::kept,
          rule == Reason::score ? lost_reason : rule);
    }
    const int floor_only = work_.floor_only[kv_head_];
    const auto by_score = static_cast<int>(kept.size()) - floor_only;
    const bool everything = static_cast<int>(kept.size()) + work_.protection.count == tokens;
    for (int rank = 0; rank < static_cast<int>(kept.size()); ++rank) {
      Reason reason = lost_reason == Reason::score ? parts.scorer->kept_reason() : lost_reason;
      if (everything) {
        reason = Reason::within_budget;
      } else if (rank >= by_score) {
        reason = Reason::head_floor;
      }
      set(kept[static_cast<std::size_t>(rank)], Fate::kept, reason);
    }
    write_cut(kept, parts);
  }

 private:
  void set(int token, Fate fate, Reason reason) {
    const std::size_t cell = decision_.cell(kv_head_, token);
    decision_.fate[cell] = fate;
    decision_.reason[cell] = reason;
    decision_.removed_at[cell] = fate == Fate::kept ? alive : 0;
  }

  void write_cut(const std::vector<int>& kept, const Parts& parts) {
    const auto head = static_cast<std::size_t>(kv_head_);
    const int granted = parts.selector->fills_grant()
                            ? work_.slots[kv_head_]
                            : static_cast<int>(kept.size()) + work_.protection.count;
    decision_.granted[head] = granted;
    Cut& cut = decision_.cut[head];
    cut = {static_cast<float>(granted), nan, nan};
    if (!kept.empty()) {
      cut.last_kept = work_.scores[decision_.cell(kv_head_, kept.back())];
    }
    for (int token = 0; token < decision_.tokens; ++token) {
      const std::size_t cell = decision_.cell(kv_head_, token);
      if (decision_.fate[cell] == Fate::evicted && !(work_.scores[cell] <= cut.first_lost)) {
        cut.first_lost = work_.scores[cell];
      }
    }
  }

  const LayerWork& work_;
  int kv_head_;
  LayerDecision& decision_;
};

std::span<const float> head_rows(const LayerWork& work, int kv_head) {
  if (!work.rows.defined()) {
    return {};
  }
  const auto size = static_cast<std::size_t>(work.rows.size(1) * work.rows.size(2));
  return {work.rows.const_data_ptr<float>() + static_cast<std::size_t>(kv_head) * size, size};
}

void store_scores(const LayerWork& work, LayerDecision& decision) {
  decision.scores = work.scores;
  for (std::size_t cell = 0; cell < decision.scores.size(); ++cell) {
    const auto token = static_cast<int>(cell % static_cast<std::size_t>(decision.tokens));
    if (work.protection.covers(token)) {
      decision.scores[cell] = nan;
    }
  }
}

}  // namespace

void check_scores(const LayerWork& work, const std::string& method) {
  const int tokens = work.protection.tokens();
  for (std::size_t cell = 0; cell < work.scores.size(); ++cell) {
    const auto token = static_cast<int>(cell % static_cast<std::size_t>(tokens));
    KVSCOPE_CHECK(
        !std::isnan(work.scores[cell]) || work.protection.covers(token), ErrorCode::failed,
        fmt::format("method '{}' scored token {} as NaN", method, token),
        fmt::format("layer {}, KV head {}", work.layer, cell / static_cast<std::size_t>(tokens)),
        "check the capture for NaN in keys, values or attention: kvscope check");
  }
}

at::Tensor selector_rows(const Parts& parts, const LayerEvidence& evidence) {
  const Rows wanted = parts.selector->reads();
  if (wanted == Rows::none) {
    return {};
  }
  if (wanted == Rows::projected_norms) {
    const at::Tensor norms =
        reduce_group(columns(evidence.projected_value_norm(1), live_slots(evidence)),
                     evidence.shape().kv_heads, "mean");
    const at::Tensor live = norms.unsqueeze(-1).to(at::kCPU, at::kFloat).contiguous();
    check_finite(live, "value", evidence.moment().layer);
    return live;
  }
  const at::Tensor all =
      wanted == Rows::values
          ? evidence.values()
          : evidence.keys(wanted == Rows::keys_post_rope ? Frame::post_rope : Frame::pre_rope);
  const at::Tensor live = rows(all, live_slots(evidence)).to(at::kCPU, at::kFloat).contiguous();
  check_finite(live, wanted == Rows::values ? "value" : "key", evidence.moment().layer);
  return live;
}

LayerDecision select_layer(const LayerWork& work, const Parts& parts, bool keep_scores) {
  LayerDecision decision =
      LayerDecision::keep_all(work.layer, work.kv_heads, work.protection.tokens());
  at::parallel_for(0, work.kv_heads, 1, [&](std::int64_t first, std::int64_t last) {
    for (auto kv_head = static_cast<int>(first); kv_head < last; ++kv_head) {
      const auto tokens = static_cast<std::size_t>(decision.tokens);
      const HeadScores head{{work.scores.data() + decision.cell(kv_head, 0), tokens},
                            work.protection,
                            head_rows(work, kv_head),
                            work.guaranteed,
                            work.scores,
                            work.budget};
      const std::vector<int> kept =
          parts.selector->select(head, work.slots[kv_head] - work.protection.count);
      HeadWriter(work, kv_head, decision).write(kept, parts);
    }
  });
  if (keep_scores) {
    store_scores(work, decision);
  }
  return decision;
}

}  // namespace kvscope::detail
