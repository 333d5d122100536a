// Search, token classes, scores, answers and bookmarks.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kvscope/core/error.h"
#include "kvscope/scene/answers.h"
#include "kvscope/scene/attention.h"
#include "kvscope/scene/bookmarks.h"
#include "kvscope/scene/commands.h"
#include "kvscope/scene/histogram.h"
#include "kvscope/scene/parameters.h"
#include "kvscope/scene/search.h"
#include "kvscope/scene/texts.h"
#include "kvscope/scene/token_class.h"
#include "synthetic_scene.h"

namespace kvscope {
namespace {

SearchResult find(const Scene& scene, const std::string& query) {
  State state = clamped({}, scene.limits());
  state.layer = 2;
  state.query = query;
  return search(scene, state);
}

TEST(Search, TextIdsPlacesAndExpressions) {
  const Scene scene = test::synthetic_scene();
  EXPECT_EQ(find(scene, "w123").matches, (std::vector<Match>{{123, 124}}));
  EXPECT_EQ(find(scene, "w12 w13").matches, (std::vector<Match>{{12, 14}})) << "over two tokens";
  EXPECT_EQ(find(scene, "@77").matches, (std::vector<Match>{{77, 78}}));
  EXPECT_TRUE(find(scene, "@400").matches.empty());
  EXPECT_EQ(find(scene, "#7").matches.size(), 8u) << "ids repeat every 50 tokens";
  EXPECT_EQ(find(scene, "/w1\\d3/").matches.size(), 10u);
  EXPECT_FALSE(find(scene, "/(/").problem.empty());
  EXPECT_FALSE(find(scene, "class:verb").problem.empty());
  EXPECT_TRUE(find(scene, "").matches.empty());
}

TEST(Search, CaseCountsOnlyWithACapital) {
  const Scene scene = test::synthetic_scene();
  EXPECT_TRUE(find(scene, "W123").matches.empty());
  EXPECT_EQ(find(scene, "w123").matches.size(), 1u);
}

TEST(Search, FatesAndLosses) {
  const Scene scene = test::synthetic_scene();
  EXPECT_EQ(find(scene, "evicted").matches, (std::vector<Match>{{123, 124}}));
  EXPECT_EQ(find(scene, "lost>=2").matches, (std::vector<Match>{{123, 124}}));
  EXPECT_TRUE(find(scene, "lost>=3").matches.empty());
  EXPECT_EQ(find(scene, "only:a").matches.size(), 199u) << "odd tokens but the needle";
  EXPECT_TRUE(find(scene, "only:b").matches.empty()) << "the needle is odd: B loses it too";
}

TEST(Search, NextAndPreviousGoAroundTheEnds) {
  const std::vector<Match> matches = {{3, 4}, {7, 8}, {9, 10}};
  EXPECT_EQ(match_beside(matches, 3, 1), 1);
  EXPECT_EQ(match_beside(matches, 9, 1), 0);
  EXPECT_EQ(match_beside(matches, 3, -1), 2);
  EXPECT_EQ(match_beside({}, 3, 1), -1);
  const Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  state.query = "w12";
  state = run_command("next_match", scene, state);
  EXPECT_EQ(state.token, 12);
  EXPECT_EQ(run_command("next_match", scene, state).token, 120);
}

TEST(TokenClass, EachTokenInTheFirstThatFits) {
  TokenTable tokens;
  const std::pair<const char*, Segment> pieces[] = {
      {"a", Segment::context},   {"b", Segment::context},         {"c", Segment::context},
      {"d", Segment::context},   {"<s>", Segment::chat_template}, {"\n ", Segment::context},
      {" 42", Segment::context}, {" ,", Segment::context},        {" word", Segment::context},
      {"why", Segment::question}};
  for (const auto& [text, segment] : pieces) {
    tokens.append(0, tokens.size(), segment, text);
  }
  std::string names;
  for (const TokenClass kind : classify(tokens)) {
    names += std::string(token_class_name(kind)).substr(0, 2) + " ";
  }
  EXPECT_EQ(names, "si si si si te wh di pu wo qu ");
}

TEST(TokenClass, SharesOfTheTextAndOfTheSlotsSumToOne) {
  const Scene scene = test::synthetic_scene();
  double text = 0;
  double slots = 0;
  for (const ClassShare& share : class_shares(scene.tokens, scene.decisions[1].decision)) {
    text += share.of_text;
    slots += share.of_slots;
  }
  EXPECT_DOUBLE_EQ(text, 1);
  EXPECT_DOUBLE_EQ(slots, 1);
  EXPECT_DOUBLE_EQ(
      class_shares(scene.tokens,
                   scene.decisions[1].decision)[static_cast<std::size_t>(TokenClass::sink)]
          .kept,
      0.5);
}

TEST(Scores, BinsHoldEveryTokenOnce) {
  const Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  state.a = 1;
  state.token = 10;
  const ScoreHistogram histogram = score_histogram(scene, state, 10);
  EXPECT_EQ(std::accumulate(histogram.kept.begin(), histogram.kept.end(), 0.0), 200);
  EXPECT_EQ(std::accumulate(histogram.lost.begin(), histogram.lost.end(), 0.0), 200);
  EXPECT_EQ(histogram.kept[3], 20);
  EXPECT_FALSE(histogram.logarithmic) << "scores are negative";
  EXPECT_EQ(histogram.token, -10);
  EXPECT_EQ(histogram.cut, -200);
}

TEST(Scores, WhatAnotherBudgetWouldKeep) {
  const Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  state.a = 1;  // keeps the even tokens; token t scores -t
  state.token = 11;
  const BudgetChange change = budget_change(scene, state, 20);
  EXPECT_TRUE(change.known);
  EXPECT_TRUE(change.token_kept);
  EXPECT_EQ(change.slots_for_token, 12);
  EXPECT_EQ(change.joining, 10) << "odd tokens below 20";
  EXPECT_EQ(change.leaving, 190) << "even tokens from 20 on";
  EXPECT_EQ(change.cut, -19);
}

TEST(Answers, AreReadCheckedAndCompared) {
  const std::string json = R"({"format": "kvscope.answers", "version_major": 1,
    "capture_hash": "h", "full": {"text": "It is 7421."}, "methods": [{"method": "snapkv",
    "keep": "0.2", "text": "It is 7241.", "first_divergence": 3, "mean_next_token_kl_nats": null,
    "cache_bytes": 12}]})";
  const Answers answers = read_answers(json, "h", "answers.json");
  ASSERT_NE(answers.of("snapkv", "0.2"), nullptr);
  EXPECT_EQ(answers.of("snapkv", "0.4"), nullptr);
  EXPECT_TRUE(std::isnan(answers.methods[0].mean_divergence));
  EXPECT_EQ(shared_beginning(answers.full, answers.methods[0].text), 7u);
  EXPECT_EQ(shared_beginning("a\xC3\xA4", "a\xC3\xB6"), 1u) << "whole characters only";
  EXPECT_THROW(read_answers(json, "other", ""), Error);
  EXPECT_THROW(read_answers("{}", "h", ""), Error);
  EXPECT_THROW(read_answers("[1", "h", ""), Error);
}

TEST(Bookmarks, ThereAndBack) {
  State state;
  state.token = 5;
  state.query = "x";
  const std::vector<Bookmark> made = {{"one", "a \"note\"\n", state}, {"\xE4\xB8\xAD", "", {}}};
  const std::string json = bookmarks_json(made, "h");
  EXPECT_EQ(read_bookmarks(json, "h", ""), made);
  EXPECT_THROW(read_bookmarks(json, "g", ""), Error);
  EXPECT_THROW(read_bookmarks("{\"format\": 3}", "h", ""), Error);
  EXPECT_THROW(read_bookmarks("", "h", ""), Error);
}

TEST(Parameters, ComeFromTheDescriptorAndChangeTheText) {
  Decision decision;
  decision.descriptor_json = R"({"pieces": [{"name": "snapkv", "parameters": [{"name": "window",
    "type": "integer", "value": 32, "default": "32", "range": "at least 1", "unit": "queries",
    "help": "newest queries"}]}, {"name": "adakv", "parameters": []}]})";
  const std::vector<MethodParameter> list = method_parameters(decision);
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].name, "window");
  EXPECT_EQ(list[0].value, "32");
  EXPECT_EQ(with_parameter("snapkv", 0, "window", "64"), "snapkv:window=64");
  EXPECT_EQ(with_parameter("snapkv:window=8,pool=7 | adakv", 0, "window", "64"),
            "snapkv:window=64,pool=7|adakv");
  EXPECT_EQ(with_parameter("alpha:lambda=0,0.5,window=3|x", 0, "lambda", "1"),
            "alpha:lambda=1,window=3|x");
  EXPECT_EQ(with_parameter("a|b:c=1", 1, "d", "2"), "a|b:c=1,d=2");
  decision.descriptor_json = "nonsense";
  EXPECT_TRUE(method_parameters(decision).empty());
}

TEST(Attention, SoftmaxOfTheCausalRowByHand) {
  ModelShape shape;
  shape.head_dim = 1;
  shape.attention_scale = 1;
  AttentionRows rows;
  rows.first_query = 1;
  rows.keys = {0, std::log(3.0f), 7};
  rows.queries = {1, 0};
  const AttentionTile tile = attention_of(rows, shape);
  ASSERT_EQ(tile.queries, 2);
  ASSERT_EQ(tile.keys, 3);
  EXPECT_NEAR(tile.probability[0], 0.25, 1e-6);
  EXPECT_NEAR(tile.probability[1], 0.75, 1e-6);
  EXPECT_EQ(tile.probability[2], 0) << "later than the query";
  EXPECT_NEAR(tile.probability[5], 1.0 / 3, 1e-6);
  shape.layer_windows = {1};
  EXPECT_EQ(attention_of(rows, shape).probability[1], 1) << "a window of one token";
  const AttentionPicture picture = shrink(tile, 2, 1);
  EXPECT_EQ(picture.width, 2);
  EXPECT_NEAR(picture.probability[0], 0.75, 1e-6) << "the largest of each pixel";
}

TEST(Texts, ExportHasARowForEachHeadAndToken) {
  const Scene scene = test::synthetic_scene();
  State state = clamped({}, scene.limits());
  state.layer = 2;
  const std::string csv = export_csv(scene, state);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 2 * 400);
  EXPECT_NE(csv.find(",1,123,\"\xC2\xB7w123\",E,score,400,-123\r\n"), std::string::npos) << csv;
  EXPECT_EQ(grouped_digits(-1234567), "-1,234,567");
  EXPECT_EQ(grouped_digits(999), "999");
}

}  // namespace
}  // namespace kvscope
