#pragma once

#include <string>
#include <vector>

#include "kvscope/report/report.h"
#include "made_decision.h"

namespace kvscope::test {

/// What hostile text a tokenizer may hand over: markup, quotes, control characters, an escape
/// sequence, a right-to-left override, broken UTF-8, CSV separators, an emoji.
inline const std::vector<std::string>& hostile_pieces() {
  static const std::vector<std::string> pieces = {"The",
                                                  " code",
                                                  " is",
                                                  " <script>alert(1)</script>",
                                                  "&\"'",
                                                  "\x1b[31mred",
                                                  "\xE2\x80\xAE"
                                                  "evil",
                                                  "\xFF\xC3",
                                                  ",\"a\"\r\n",
                                                  " \xF0\x9F\x98\x80"};
  return pieces;
}

/// Two methods on ten hostile tokens, one layer of two KV heads: "first" loses tokens 3 and 4 in
/// one head and 5 in both, "second" merges 6 and drops 7 in head 0. Answers and metrics are given.
inline ReportInput made_input() {
  ReportInput input;
  input.capture.model_name = "a <b> & \"model\"";
  input.capture.path = "run.capture.h5";
  input.capture.capture_hash = "0123456789abcdef";
  input.capture.cache_dtype = "float32";
  input.capture.shape.layers = 1;
  input.capture.shape.kv_heads = 2;
  input.capture.shape.query_heads = 4;
  input.capture.shape.head_dim = 4;
  input.capture.layers = {0};
  input.capture.prompt_tokens = input.capture.context_tokens = input.capture.tokens = 10;
  for (std::size_t token = 0; token < hostile_pieces().size(); ++token) {
    input.tokens.append(static_cast<int>(token), static_cast<int>(token), Segment::context,
                        hostile_pieces()[token]);
  }
  input.tokens.prompt_tokens = input.tokens.context_tokens = 10;
  Decision first = made_decision({{"PKKEEEKKKK", "PKKKKEKKKK"}}, 2);
  first.method = "first:window=2|nearest";
  first.preset = "first";
  first.metrics.queries = "last 64";
  first.metrics.query_count = 64;
  first.metrics.seen_by_method = true;
  first.metrics.output_error = {0.1f, 0.3f, 0.2f, 0.4f};
  first.metrics.retained_mass = {0.9f, 0.7f, 0.8f, 0.6f};
  first.metrics.retained_mass_no_sinks = {0.5f, 0.5f, 0.5f, 0.5f};
  first.metrics.lost_error.assign(20, 0.0f);
  first.metrics.lost_error[3] = 0.25f;
  first.metrics.lost_error[5] = 0.5f;
  first.metrics.lost_error[15] = 0.125f;
  Decision second = made_decision({{"KKKKKKMDKK", "KKKKKKKKKK"}}, 2);
  second.method = "second";
  second.preset = "second";
  second.replay_exact = false;
  input.decisions = {first, second};
  input.find = {"code is", "nowhere"};
  input.full_answer = "It is 7421.";
  input.answers = {{"first:window=2|nearest", "0.5", "It is <7241>.", 3, 1.5, 640},
                   {"second", "0.5", "It is 7421.", -1, 0.25, 640}};
  return input;
}

}  // namespace kvscope::test
