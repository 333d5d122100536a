#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "method_support.h"

namespace kvscope::testing {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> texts(const std::string& text) {
  std::vector<std::string> result;
  for (const Method& method : parse_methods(text)) {
    result.push_back(method.text());
  }
  return result;
}

void expect_refused(const std::string& text, const std::string& words) {
  SCOPED_TRACE(text);
  expect_error([&] { parse_methods(text); }, ErrorCode::usage, words);
}

TEST(MethodText, CanonicalTextLeavesDefaultsOut) {
  EXPECT_THAT(texts("snapkv"), ElementsAre("snapkv"));
  EXPECT_THAT(texts("  snapkv : pool = 5 , window=64 "), ElementsAre("snapkv"));
  EXPECT_THAT(texts("snapkv:pool=7,window=32"), ElementsAre("snapkv:window=32,pool=7"));
  EXPECT_THAT(texts("snapkv|adakv:floor=0.50|top_k|nearest_key"),
              ElementsAre("snapkv | adakv:floor=0.5 | top_k | nearest_key"));
  EXPECT_THAT(texts("h2o"), ElementsAre("h2o:form=prefill_sum"));  // a form is always spelled out
  EXPECT_EQ(parse_methods("snapkv | adakv").front().preset(), "snapkv");
}

TEST(MethodText, AListMakesOneMethodForEachValue) {
  EXPECT_THAT(texts("snapkv:window=16,32,64"),
              ElementsAre("snapkv:window=16", "snapkv:window=32", "snapkv"));
  EXPECT_THAT(texts("snapkv:window=16,32,pool=3,7"),
              ElementsAre("snapkv:window=16,pool=3", "snapkv:window=16,pool=7",
                          "snapkv:window=32,pool=3", "snapkv:window=32,pool=7"));
  EXPECT_THAT(texts("knorm | adakv:floor=0,1 | nearest_key:gate=0.1,0.2"),
              ElementsAre("knorm | adakv:floor=0 | nearest_key:gate=0.1",
                          "knorm | adakv:floor=0 | nearest_key:gate=0.2",
                          "knorm | adakv:floor=1 | nearest_key:gate=0.1",
                          "knorm | adakv:floor=1 | nearest_key:gate=0.2"));
}

TEST(MethodText, UnknownNamesComeWithTheNearest) {
  expect_refused("snapvk", "did you mean 'snapkv'");
  expect_refused("zzzzzzzzzzzz", "known methods: full");
  expect_refused("snapkv:windows=3", "did you mean 'window'");
  expect_refused("knorm:window=3", "takes no parameters");
  expect_refused("knorm | adkv", "did you mean 'adakv'");
  expect_refused("laprox:scope=modle", "did you mean 'model'");
}

TEST(MethodText, ValuesAreCheckedAgainstTheirRange) {
  expect_refused("snapkv:window=0", "out of range");
  expect_refused("snapkv:window=-1", "1..");
  expect_refused("snapkv:window=two", "not an integer");
  expect_refused("snapkv:window=3.5", "not an integer");
  expect_refused("snapkv:window=99999999999", "not an integer");
  expect_refused("snapkv:pool=4", "out of range");
  expect_refused("h2o:recent=1.5", "out of range");
  expect_refused("h2o:recent=nan", "not finite");
  expect_refused("h2o:recent=inf", "not finite");
  expect_refused("laprox:value=yes", "true or false");
}

TEST(MethodText, PiecesHaveAnOrder) {
  expect_refused("adakv_", "did you mean 'adakv'");
  expect_refused("uniform", "cannot be the first piece");
  expect_refused("snapkv | knorm", "it can only be the first piece");
  expect_refused("knorm | top_k | uniform", "'uniform' cannot follow 'top_k'");
  expect_refused("knorm | uniform | pool", "'pool' cannot follow 'uniform'");
  expect_refused("full | adakv", "takes no further pieces");
}

TEST(MethodText, BrokenTextIsRefused) {
  for (const char* text :
       {"", " ", "|", "snapkv|", "| snapkv", ":window=3", "snapkv:", "snapkv:32", "snapkv:window",
        "snapkv:window=", "snapkv:=3", "snapkv:window=3,,pool=3", "snapkv:window=3,window=4"}) {
    SCOPED_TRACE(text);
    EXPECT_THROW(parse_methods(text), Error);
  }
  expect_refused("snapkv:window=3,window=4", "given twice");
}

TEST(MethodText, DescriptorSpeaksForItself) {
  const auto json = nlohmann::json::parse(
      parse_methods("laprox:window=16 | adakv:floor=0.5").front().descriptor_json());
  EXPECT_EQ(json["name"], "laprox");
  EXPECT_EQ(json["text"], "laprox:window=16 | adakv:floor=0.5");
  EXPECT_EQ(json["scope"], "layer");
  EXPECT_EQ(json["pieces"].size(), 2U);
  EXPECT_EQ(json["pieces"][0]["parameters"][0]["value"], 16);
  EXPECT_EQ(json["pieces"][1]["parameters"][0]["value"], 0.5);
  EXPECT_EQ(json["terms"][0]["name"], "column_norm");
  EXPECT_EQ(json["merges"], false);
}

}  // namespace
}  // namespace kvscope::testing
