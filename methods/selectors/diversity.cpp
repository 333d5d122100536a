#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kvscope/core/error.h"
#include "kvscope/kernels/greedy_diversity.h"
#include "registry/entry.h"
#include "selectors/selectors.h"

namespace kvscope::detail {
namespace {

/// How base scores are brought to the scale of cosines.
enum class BaseNorm { zscore, minmax, none };

/// Scores of one head's candidates, normalised over them in float64.
void normalise(std::vector<double>& scores, BaseNorm how) {
  if (how == BaseNorm::none || scores.empty()) {
    return;
  }
  double shift = *std::min_element(scores.begin(), scores.end());
  double scale = *std::max_element(scores.begin(), scores.end()) - shift;
  if (how == BaseNorm::zscore) {
    const auto count = static_cast<double>(scores.size());
    double sum = 0;
    for (const double score : scores) {
      sum += score;
    }
    shift = sum / count;
    double square = 0;
    for (const double score : scores) {
      square += (score - shift) * (score - shift);
    }
    scale = std::sqrt(square / count);
  }
  for (double& score : scores) {
    score = (score - shift) / std::max(scale, 1e-6);
  }
}

/// Greedy choice by score minus lambda times the similarity to what was chosen before.
class Diversity : public Selector {
 public:
  explicit Diversity(const Arguments& arguments)
      : base_(make_top_k()), init_protected_(arguments.text("init_set") == "protected") {
    using Options = GreedyDiversityOptions;
    options_.lambda = arguments.real("lambda");
    const std::string& aggregate = arguments.text("agg");
    options_.aggregate = aggregate == "max"    ? Options::Aggregate::max
                         : aggregate == "mean" ? Options::Aggregate::mean
                                               : Options::Aggregate::sum;
    options_.clip_at_zero = arguments.text("clip") == "zero";
    options_.objective =
        arguments.text("objective") == "fl" ? Options::Objective::fl : Options::Objective::mmr;
    const std::string& norm = arguments.text("base_norm");
    norm_ = norm == "zscore"   ? BaseNorm::zscore
            : norm == "minmax" ? BaseNorm::minmax
                               : BaseNorm::none;
    const std::string& space = arguments.text("space");
    space_ = space == "v"             ? Rows::values
             : space == "k_post_rope" ? Rows::keys_post_rope
                                      : Rows::keys_pre_rope;
    KVSCOPE_CHECK(norm_ != BaseNorm::none || options_.lambda == 0 || arguments.boolean("unscaled"),
                  ErrorCode::usage,
                  "base_norm=none leaves lambda without a scale: scores of different "
                  "heads and prompts differ in size",
                  "method text", "add unscaled=true if that is meant, or use base_norm=zscore");
  }

  std::vector<int> select(const HeadScores& head, int slots) const override {
    if (options_.lambda == 0) {
      return base_->select(head, slots);
    }
    std::vector<int> token;
    std::vector<int> member;
    std::vector<double> scores;
    for (int at = 0; at < head.protection.tokens(); ++at) {
      if (head.protection.covers(at)) {
        member.push_back(at);
      } else {
        token.push_back(at);
        scores.push_back(static_cast<double>(head.scores[static_cast<std::size_t>(at)]));
      }
    }
    const int picks = std::clamp(slots, 0, static_cast<int>(token.size()));
    if (picks == 0) {
      return {};
    }
    normalise(scores, norm_);
    const at::Tensor order = greedy_diversity(
        score_tensor(scores), row_tensor(head, token),
        init_protected_ && !member.empty() ? row_tensor(head, member) : at::Tensor(), picks,
        options_);
    std::vector<int> kept;
    for (int pick = 0; pick < picks; ++pick) {
      kept.push_back(token[static_cast<std::size_t>(order.const_data_ptr<std::int32_t>()[pick])]);
    }
    return kept;
  }

  Rows reads() const override { return options_.lambda == 0 ? Rows::none : space_; }

 private:
  static at::Tensor score_tensor(const std::vector<double>& scores) {
    at::Tensor tensor = at::empty({1, static_cast<std::int64_t>(scores.size())}, at::kFloat);
    std::transform(scores.begin(), scores.end(), tensor.mutable_data_ptr<float>(),
                   [](double score) { return static_cast<float>(score); });
    return tensor;
  }

  /// The rows of these tokens, [1, tokens, head_dim].
  static at::Tensor row_tensor(const HeadScores& head, const std::vector<int>& tokens) {
    const std::size_t dim = head.rows.size() / head.scores.size();
    at::Tensor tensor = at::empty(
        {1, static_cast<std::int64_t>(tokens.size()), static_cast<std::int64_t>(dim)}, at::kFloat);
    float* to = tensor.mutable_data_ptr<float>();
    for (const int token : tokens) {
      const std::span<const float> row =
          head.rows.subspan(static_cast<std::size_t>(token) * dim, dim);
      to = std::copy(row.begin(), row.end(), to);
    }
    return tensor;
  }

  std::unique_ptr<Selector> base_;
  bool init_protected_;
  GreedyDiversityOptions options_;
  BaseNorm norm_;
  Rows space_;
};

}  // namespace

std::vector<ParameterInfo> diversity_parameters() {
  return {
      real_parameter("lambda", 0.5, "0..", "of a standard deviation",
                     "similar tokens are avoided at a higher price"),
      choice_parameter("agg", "max|mean|sum", "similarity to the picked ones, taken together"),
      choice_parameter("clip", "none|zero", "zero: opposite directions are no better than square"),
      choice_parameter("base_norm", "zscore|minmax|none",
                       "how scores are scaled over a head's candidates before lambda applies"),
      choice_parameter("init_set", "empty|protected",
                       "protected: similarity to protected tokens counts from the start"),
      choice_parameter("space", "v|k_pre_rope|k_post_rope", "what similarity is measured on"),
      choice_parameter("objective", "mmr|fl",
                       "mmr: less the redundancy; fl: plus the gain in facility location"),
      boolean_parameter("unscaled", false, "confirms base_norm=none with lambda above 0")};
}

std::unique_ptr<Selector> make_diversity(const Arguments& arguments) {
  return std::make_unique<Diversity>(arguments);
}

PieceEntry diversity_entry() {
  PieceEntry entry;
  entry.info.name = "diversity";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary =
      "picks one after another by score minus lambda times the similarity to what was picked; "
      "lambda=0 is top_k, bit for bit";
  entry.info.paper = "Sun et al. 2026 (alpha), arXiv:2605.14292";
  entry.info.departures =
      "our reading: the paper's formula is not public. Redundancy is the cosine to the nearest "
      "picked value; protected tokens are no candidates and do not count";
  entry.info.scope = "head";
  entry.info.parameters = diversity_parameters();
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.selector = make_diversity(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
