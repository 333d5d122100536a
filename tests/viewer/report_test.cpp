// The report in its four formats on a run made by hand, with hostile token text.
#include "kvscope/report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "kvscope/core/error.h"
#include "kvscope/report/formats.h"
#include "made_report.h"

namespace kvscope {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string golden(const std::string& name) {
  std::ifstream file(std::string(KVSCOPE_SOURCE_DIR) + "/tests/golden/report/" + name,
                     std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// Compares with the golden file; KVSCOPE_WRITE_GOLDENS writes it instead (look at the difference
/// before committing it).
void expect_golden(const std::string& name, const std::string& text) {
  if (std::getenv("KVSCOPE_WRITE_GOLDENS") != nullptr) {
    std::ofstream(std::string(KVSCOPE_SOURCE_DIR) + "/tests/golden/report/" + name,
                  std::ios::binary)
        << text;
  }
  EXPECT_EQ(text, golden(name)) << name;
}

TEST(Report, TextIsTheGoldenOne) {
  expect_golden("made.txt", to_text(build_report(test::made_input())));
}

TEST(Report, CsvIsTheGoldenOne) {
  const Report report = build_report(test::made_input());
  expect_golden("made.csv", to_csv(report));
  expect_golden("made.tokens.csv", to_csv_tokens(report));
}

TEST(Report, HtmlIsTheGoldenOne) {
  // Style and script are their own; the page between them is compared, without the bytes of its
  // pictures, which depend on the compressor.
  const std::string page = std::regex_replace(to_html(build_report(test::made_input())),
                                              std::regex("base64,[A-Za-z0-9+/=]+"), "base64,...");
  const std::size_t body = page.find("<body>");
  ASSERT_NE(body, std::string::npos);
  expect_golden("made.html", page.substr(body, page.find("<script>", body) - body) + "\n");
}

TEST(Report, NumbersByHand) {
  const Report report = build_report(test::made_input());
  const ReportMethod& first = report.methods[0];
  EXPECT_EQ(first.held_slots, 16);
  EXPECT_EQ(first.held_bytes, 16 * 2 * 4 * 4);
  EXPECT_EQ(first.fates.total.evicted, 4);
  EXPECT_DOUBLE_EQ(first.gone_share, 4.0 / 20);
  EXPECT_NEAR(first.cost.output_error_mean, 0.25, 1e-6);
  EXPECT_EQ(first.cost.worst_query_head, 3);
  ASSERT_GE(first.lost.size(), 2u);
  EXPECT_EQ(first.lost[0].token, 5);
  EXPECT_DOUBLE_EQ(first.lost[0].error, 0.625);
  EXPECT_EQ(first.lost[0].lost_heads, 2);
  EXPECT_THAT(first.lost[0].why, HasSubstr("Evicted"));
  EXPECT_EQ(first.peak_bytes, 16 * 32);
  EXPECT_EQ(first.mean_bytes, 16 * 32);
  EXPECT_TRUE(*first.answer_changed);
  EXPECT_FALSE(*report.methods[1].answer_changed);
  EXPECT_DOUBLE_EQ(report.methods[1].fates.total.dropped_share(), 0.5);
  ASSERT_EQ(report.found.size(), 2u);
  EXPECT_EQ(report.found[0].first, 1);
  EXPECT_EQ(report.found[0].last, 3);
  EXPECT_EQ(report.found[0].fates[0].verdict, "kept whole");
  EXPECT_FALSE(report.found[1].found);
}

TEST(Report, LowBitValuesCountTheirPackedBytes) {
  ReportInput input = test::made_input();
  input.decisions[0].form.value_bits = 8;
  const ReportMethod first = build_report(input).methods[0];
  EXPECT_EQ(first.held_bytes, 16 * (4 * 4 + 4 + 4)) << "keys whole, four bytes of values, a scale";
  EXPECT_EQ(first.mean_bytes, 16 * 24);
  EXPECT_EQ(first.full_bytes, 20 * 32);
}

TEST(Report, TheFactIsLostMergedOrKeptInPart) {
  ReportInput input = test::made_input();
  input.find = {"<script>", "[31mred", "evil"};
  const Report report = build_report(input);
  EXPECT_EQ(report.found[0].fates[0].verdict, "kept in part");
  EXPECT_EQ(report.found[1].fates[0].verdict, "lost");
  EXPECT_EQ(report.found[2].fates[1].verdict, "kept in part") << "merged in one head of two";
  input.decisions = {made_decision({{"KKKKKKMKKK", "KKKKKKMKKK"}}, 2)};
  EXPECT_EQ(build_report(input).found[2].fates[0].verdict, "merged away");
}

TEST(Report, UnequalMemoryIsNotCompared) {
  ReportInput input = test::made_input();
  EXPECT_THAT(build_report(input).memory, HasSubstr("not matched")) << "16 against 18 of 20 slots";
  EXPECT_THAT(to_text(build_report(input)), HasSubstr("not comparable: memory differs by 11.1 %"));
  const auto jaccard = [](const ReportInput& of) {
    const std::string text = to_text(build_report(of));
    const std::size_t row = text.find("2:second@0.5", text.find("AGREEMENT"));
    return text.substr(row, text.find('\n', row) - row);
  };
  EXPECT_THAT(jaccard(input), Not(HasSubstr("0.700")));
  input.any_memory = true;
  EXPECT_THAT(jaccard(input), HasSubstr("0.700")) << "14 cells in both, 20 in either";
  input.decisions[1] = made_decision({{"KKKKKKMDEK", "KKKKKKKKKE"}}, 2);
  EXPECT_THAT(build_report(input).memory, HasSubstr("Matched memory"));
}

TEST(Report, JsonIsStableAndHasNoNan) {
  const nlohmann::json json = nlohmann::json::parse(to_json(build_report(test::made_input())));
  EXPECT_EQ(json["format"], "kvscope.report");
  EXPECT_EQ(json["methods"][0]["answer"]["first_divergence"], 3);
  EXPECT_EQ(json["methods"][1]["cost"], nullptr);
  EXPECT_EQ(json["methods"][0]["peak_bytes"], 512);
  EXPECT_EQ(json["agreement"][0]["total"]["both"], 14);
  EXPECT_EQ(json["find"][1]["found"], false);
  for (const char* key :
       {"method", "preset", "keep", "origin", "asked_slots", "granted_slots", "held_slots",
        "mean_bytes", "peak_bytes", "first_bytes", "gone_share", "token_classes", "fates", "cost",
        "layers", "lost_tokens", "checks", "answer"}) {
    EXPECT_TRUE(json["methods"][0].contains(key)) << key;
  }
}

TEST(Report, HostileTextIsHarmlessEverywhere) {
  const Report report = build_report(test::made_input());
  const std::string html = to_html(report);
  EXPECT_THAT(html, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_THAT(html, Not(HasSubstr("a <b> & \"model\"")));
  EXPECT_THAT(html, Not(HasSubstr("It is <7241>")));
  for (const std::string& text : {html, to_text(report), to_csv(report), to_csv_tokens(report)}) {
    for (const char character : text) {
      const auto byte = static_cast<unsigned char>(character);
      ASSERT_TRUE(byte >= 0x20 || byte == '\n' || byte == '\r') << static_cast<int>(byte);
      ASSERT_NE(byte, 0x7F);
    }
    EXPECT_THAT(text, Not(HasSubstr("\xE2\x80\xAE")))
        << "a right-to-left override turns lines round";
    EXPECT_NO_THROW(nlohmann::json(text).dump()) << "not UTF-8";
  }
}

TEST(Report, RefusesADecisionOfAnotherRun) {
  ReportInput input = test::made_input();
  input.decisions[0].capture_hash = "ffffffffffffffff";
  EXPECT_THROW(build_report(input), Error);
}

TEST(Report, NothingToReportIsStillAReport) {
  ReportInput input = test::made_input();
  input.decisions.clear();
  input.answers.clear();
  const Report report = build_report(input);
  EXPECT_THAT(to_text(report), HasSubstr("no decision given"));
  EXPECT_THAT(to_html(report), HasSubstr("</html>"));
  EXPECT_TRUE(nlohmann::json::parse(to_json(report))["methods"].empty());
}

}  // namespace
}  // namespace kvscope
