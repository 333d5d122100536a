#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "registry/entry.h"
#include "selectors/ordering.h"

namespace kvscope::detail {
namespace {

/// Rows of the similarity matrix that exist at once.
constexpr std::int64_t block = 512;

/// The highest scores after what repeats is marked down: how much a choice gains from avoiding keys
/// that look alike, all at once instead of one pick after another.
class Redundancy : public Selector {
 public:
  explicit Redundancy(const Arguments& arguments)
      : mix_(arguments.real("mix")),
        threshold_(static_cast<float>(arguments.real("threshold"))),
        space_(arguments.text("space") == "v"             ? Rows::values
               : arguments.text("space") == "k_post_rope" ? Rows::keys_post_rope
                                                          : Rows::keys_pre_rope) {}

  std::vector<int> select(const HeadScores& head, int slots) const override {
    std::vector<std::size_t> tokens;
    std::vector<double> scores;
    std::vector<double> repeated;
    const std::vector<double> everywhere = mix_ < 1 ? mean_similarity(head) : std::vector<double>();
    for (std::size_t token = 0; token < head.scores.size(); ++token) {
      if (!head.protection.covers(static_cast<int>(token))) {
        tokens.push_back(token);
        scores.push_back(static_cast<double>(head.scores[token]));
        repeated.push_back(mix_ < 1 ? everywhere[token] : 0);
      }
    }
    if (mix_ < 1) {
      standardise(scores);
      standardise(repeated);
    }
    std::vector<std::uint64_t> words;
    for (std::size_t at = 0; at < tokens.size(); ++at) {
      const double mixed = mix_ < 1 ? mix_ * scores[at] - (1 - mix_) * repeated[at] : scores[at];
      words.push_back(rank_word(static_cast<float>(mixed), tokens[at]));
    }
    return best_tokens(std::move(words), slots);
  }

  Rows reads() const override { return mix_ < 1 ? space_ : Rows::none; }

 private:
  static void standardise(std::vector<double>& values) {
    double sum = 0;
    double squares = 0;
    for (const double value : values) {
      sum += value;
    }
    const double mean = values.empty() ? 0 : sum / static_cast<double>(values.size());
    for (double& value : values) {
      value -= mean;
      squares += value * value;
    }
    const double deviation =
        std::max(values.empty() ? 0 : std::sqrt(squares / static_cast<double>(values.size())), 1e-6);
    for (double& value : values) {
      value /= deviation;
    }
  }

  /// Mean over all tokens of their cosine to each token: [tokens]. A token does not count itself,
  /// nor the newest one that is more alike than the threshold.
  std::vector<double> mean_similarity(const HeadScores& head) const {
    const auto tokens = static_cast<std::int64_t>(head.scores.size());
    const auto dim = static_cast<std::int64_t>(head.rows.size()) / std::max<std::int64_t>(tokens, 1);
    // from_blob does not write; it only lacks a const form.
    const at::Tensor rows =
        at::from_blob(const_cast<float*>(head.rows.data()), {tokens, dim}, at::kFloat);
    const at::Tensor unit = rows / (at::linalg_vector_norm(rows, 2, {-1}, true) + 1e-8);
    std::vector<double> sum(static_cast<std::size_t>(tokens), 0.0);
    for (std::int64_t first = 0; first < tokens; first += block) {
      const std::int64_t count = std::min(block, tokens - first);
      const at::Tensor cosine = at::matmul(unit.narrow(0, first, count), unit.t()).contiguous();
      const float* row = cosine.const_data_ptr<float>();
      for (std::int64_t at = first; at < first + count; ++at, row += tokens) {
        add_row({row, static_cast<std::size_t>(tokens)}, static_cast<std::size_t>(at), sum);
      }
    }
    for (double& value : sum) {
      value /= static_cast<double>(tokens);
    }
    return sum;
  }

  void add_row(std::span<const float> cosine, std::size_t own, std::vector<double>& sum) const {
    std::size_t spared = cosine.size();
    for (std::size_t token = 0; token < cosine.size(); ++token) {
      if (token != own && cosine[token] > threshold_) {
        spared = token;
      }
    }
    for (std::size_t token = 0; token < cosine.size(); ++token) {
      if (token != own && token != spared) {
        sum[token] += static_cast<double>(cosine[token]);
      }
    }
  }

  double mix_;
  float threshold_;
  Rows space_;
};

}  // namespace

PieceEntry redundancy_entry() {
  PieceEntry entry;
  entry.info.name = "redundancy";
  entry.info.kind = PieceInfo::Kind::selector;
  entry.info.summary =
      "top_k after tokens whose keys repeat were marked down, all at once: a control beside "
      "diversity; mix=1 is top_k, bit for bit";
  entry.info.paper =
      "none; alpha's paper rejects scoring changes it does not define. The redundancy is R-KV's, "
      "Cai et al. 2025, arXiv:2505.24133";
  entry.info.departures =
      "our reading: scores and redundancy are z-scores over a head's candidates, so that mix means "
      "the same on any base (R-KV mixes two softmaxes); a row without a similar key spares none "
      "(R-KV's code spares column 0)";
  entry.info.scope = "head";
  entry.info.parameters = {
      real_parameter("mix", 0.5, "0..1", "share of the score",
                     "the score counts more, repetition less"),
      real_parameter("threshold", 0.5, "-1..1", "cosine",
                     "fewer newest copies are spared from counting as repeated"),
      choice_parameter("space", "k_post_rope|k_pre_rope|v", "what similarity is measured on")};
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.selector = std::make_unique<Redundancy>(arguments);
  };
  return entry;
}

}  // namespace kvscope::detail
