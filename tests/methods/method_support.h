#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fake_run.h"
#include "kvscope/core/error.h"
#include "kvscope/methods/method.h"

namespace kvscope::testing {

inline const DecideOptions everything_stored{true, true, 0};

/// The decision of one method text at one budget text, scores and terms stored.
inline Decision decided(FakeRun& run, const std::string& method, const std::string& keep,
                        const DecideOptions& options = everything_stored) {
  return decide(run, parse_methods(method).front(), Budget::parse(keep), options);
}

/// Tokens of one KV head that hold a slot, ascending.
inline std::vector<int> kept(const Decision& decision, int layer, int kv_head) {
  const LayerDecision& here = decision.layers[static_cast<std::size_t>(layer)];
  std::vector<int> tokens;
  for (int token = 0; token < here.tokens; ++token) {
    if (here.removed_at[here.cell(kv_head, token)] == alive) {
      tokens.push_back(token);
    }
  }
  return tokens;
}

/// Scores of one KV head as stored: NaN where a rule decided.
inline std::vector<float> scores(const Decision& decision, int layer, int kv_head) {
  const LayerDecision& here = decision.layers[static_cast<std::size_t>(layer)];
  const auto first = here.scores.begin() + static_cast<std::ptrdiff_t>(here.cell(kv_head, 0));
  return {first, first + here.tokens};
}

inline Reason reason(const Decision& decision, int layer, int kv_head, int token) {
  const LayerDecision& here = decision.layers[static_cast<std::size_t>(layer)];
  return here.reason[here.cell(kv_head, token)];
}

/// Asserts that `body` throws a kvscope::Error with this code whose text holds `words`.
template <typename Body>
void expect_error(const Body& body, ErrorCode code, const std::string& words) {
  try {
    body();
    ADD_FAILURE() << "no error; expected one about: " << words;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    const std::string text = error.message() + " | " + error.where() + " | " + error.fix();
    EXPECT_THAT(text, ::testing::HasSubstr(words));
    EXPECT_FALSE(error.where().empty()) << error.what();
    EXPECT_FALSE(error.fix().empty()) << error.what();
  }
}

/// scores[first...] are close to `expected`.
inline void expect_scores(const std::vector<float>& scores, const std::vector<double>& expected,
                          double tolerance = 1e-6) {
  ASSERT_GE(scores.size(), expected.size());
  for (std::size_t token = 0; token < expected.size(); ++token) {
    EXPECT_NEAR(scores[token], expected[token], tolerance) << "token " << token;
  }
}

}  // namespace kvscope::testing
