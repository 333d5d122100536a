#include "chat_template.h"

#include <gtest/gtest.h>

#include <set>

#include "model_test_support.h"

namespace kvscope {
namespace {

using nlohmann::json;

ChatRequest request_of(const json& messages, bool answer = true) {
  ChatRequest request;
  request.add_generation_prompt = answer;
  for (const json& message : messages) {
    request.messages.push_back({message.at("role"), message.at("content")});
  }
  return request;
}

std::string render(const std::string& source, const std::string& content = "Hello") {
  return render_chat({source, "<s>", "</s>"}, {{{"user", content}}});
}

Error refusal(const std::string& source) {
  return test::error_of([&] { render(source); });
}

/// The families' own templates as transformers renders them, tests/golden/chat_templates.py.
TEST(ChatTemplate, AgreesWithTransformers) {
  const json golden =
      json::parse(test::read_file(test::source_path("tests/golden/chat_templates.json")));
  std::set<std::string> templates;
  int refused = 0;
  for (const json& example : golden.at("cases")) {
    const std::string name = example.at("template");
    const std::string conversation = example.at("conversation");
    SCOPED_TRACE(name + ", " + conversation);
    templates.insert(name);
    const ChatTemplate chat_template{
        test::read_file(test::source_path("tests/golden/chat_templates/" + name + ".jinja")),
        example.at("bos"), example.at("eos")};
    const ChatRequest request = request_of(golden.at("conversations").at(conversation),
                                           example.at("add_generation_prompt"));
    if (example.contains("raises")) {
      const Error error = test::error_of([&] { render_chat(chat_template, request); });
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      EXPECT_THAT(error.message(), testing::HasSubstr(example.at("raises").get<std::string>()));
      ++refused;
      continue;
    }
    EXPECT_EQ(render_chat(chat_template, request), example.at("rendered").get<std::string>());
  }
  EXPECT_EQ(templates.size(), 20u);
  EXPECT_GT(refused, 10);
}

/// Where the engine does otherwise than Jinja, which gives these.
TEST(ChatTemplate, WritesAsJinja) {
  EXPECT_EQ(render("\n{% if true %}b{% endif %}"), "\nb");
  EXPECT_EQ(render("\r\n{% if true %}b{% endif %}"), "\nb");
  EXPECT_EQ(render("{{ none }}{% if true %}{{ tools }}{% endif %}{{ nothing }}"), "NoneNone");
  EXPECT_EQ(render("{% macro f(x) %}{{ x }}{% endmacro %}{{ f(none) }}{{ true }}{{ 1.5 }}"),
            "NoneTrue1.5");
  for (const char* source : {"{{ messages }}", "{% for m in messages %}{{ m }}{% endfor %}",
                             "{% set x %}{{ [1, 2] }}{% endset %}", "{{ range(3) }}"}) {
    EXPECT_THAT(refusal(source).message(), testing::HasSubstr("a list or mapping")) << source;
  }
  const Error filter = refusal("x\n{% if true %}{{ [1, 2] | select('odd') | list }}{% endif %}");
  EXPECT_THAT(filter.message(), testing::HasSubstr("'select'"));
  EXPECT_THAT(filter.where(), testing::HasSubstr("line 2: "));
  EXPECT_THAT(refusal("{{ 'a b'.split() | join }}").message(), testing::HasSubstr("'split'"));
}

TEST(ChatTemplate, FirstCharacterStays) {
  EXPECT_EQ(render("a{% if true %}b{% endif %}"), "ab");
  EXPECT_EQ(render("{ {% if true %}b{% endif %}"), "{ b");
  EXPECT_EQ(render("  {% if true %}b{% endif %}"), "b");
}

TEST(ChatTemplate, WhatIsNotKnownIsNamed) {
  const Error filter =
      refusal("{% for m in messages %}\n  {{ m.content | frobnicate }}{% endfor %}");
  EXPECT_EQ(filter.code(), ErrorCode::unsupported);
  EXPECT_THAT(filter.message(), testing::HasSubstr("'frobnicate'"));
  EXPECT_THAT(filter.where(), testing::HasSubstr("line 2: "));
  EXPECT_THAT(filter.where(), testing::HasSubstr("m.content | frobnicate"));
  EXPECT_THAT(filter.fix(), testing::HasSubstr("without --chat"));
  EXPECT_THAT(refusal("{{ lipsum(3) }}").message(),
              testing::HasSubstr("'lipsum' is no function or method"));
  EXPECT_THAT(refusal("{{ messages[0].content.zfill(3) }}").message(),
              testing::HasSubstr("'zfill' is no function"));
  EXPECT_THAT(refusal("{% include 'x' %}").message(), testing::HasSubstr("include"));
  EXPECT_THAT(refusal("{{ 'x' is prime }}").message(), testing::HasSubstr("prime"));
  EXPECT_THAT(refusal("{{ '\\x41' }}").message(), testing::HasSubstr("\\x"));
  EXPECT_THAT(refusal("{{ raise_exception('only in pairs') }}").message(),
              testing::HasSubstr("refuses these messages: only in pairs"));
  EXPECT_THAT(refusal("").message(), testing::HasSubstr("no chat template"));
}

TEST(ChatTemplate, BrokenSourcesAreRefused) {
  for (const char* source :
       {"{{ 'open", "{{", "{%", "{#", "{{ 'a\\", "{{ }}", "{% if %}x{% endif %}", "{% if true %}",
        "{% endif %}", "{{ a b }}", "{{ [1, 2 }}", "{% for %}", "{{ 1 / }}", "{% set %}",
        "{% macro %}", "{{ {'a' 1} }}", "{{ x[ }}"}) {
    try {
      render(source);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported) << source;
      EXPECT_FALSE(error.message().empty()) << source;
    }
  }
}

/// The address sanitizer ends a process that runs out of memory.
testing::Matcher<std::string> takes_too_much_memory() {
#ifdef __SANITIZE_ADDRESS__
  return testing::HasSubstr("crashes the renderer");
#else
  return testing::HasSubstr("512 MiB");
#endif
}

/// A template is a program from a file that nobody has checked.
TEST(ChatTemplate, HostileTemplatesEnd) {
  const auto message = [](const std::string& source) { return refusal(source).message(); };
  EXPECT_THAT(message("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"),
              testing::HasSubstr("recurses without end"));
  EXPECT_THAT(message("{{ range(1000000000000) | length }}"), takes_too_much_memory());
  EXPECT_THAT(message("{{ 'spam' * 1000000000000 }}"), takes_too_much_memory());
  EXPECT_THAT(message("{% set ns = namespace(s='spam') %}{% for i in range(100) %}"
                      "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"),
              takes_too_much_memory());
  EXPECT_THAT(message("{% for i in range(2000) %}" + std::string(10000, 'x') + "{% endfor %}"),
              testing::HasSubstr("16 MiB"));
  EXPECT_THAT(message("{{ [messages] * 3 }}"), testing::HasSubstr("*"));
}

TEST(ChatTemplate, EndlessLoopsEnd) {
  std::string source = "x";
  for (int depth = 0; depth < 12; ++depth) {
    source = "{% for i in range(10) %}" + source + "{% endfor %}";
  }
  EXPECT_THAT(refusal(source).message(), testing::HasSubstr("more than 2 s"));
}

TEST(ChatTemplate, NestingAndSizeAreBounded) {
  const auto repeated = [](const std::string& text, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) {
      all += text;
    }
    return all;
  };
  const auto message = [](const std::string& source) { return refusal(source).message(); };
  EXPECT_THAT(message("{{ " + repeated("(", 10000) + "1" + repeated(")", 10000) + " }}"),
              testing::HasSubstr("64 brackets"));
  EXPECT_THAT(message("{{ " + repeated("[", 65) + repeated("]", 65) + " }}"),
              testing::HasSubstr("64 brackets"));
  EXPECT_EQ(render("{{ " + repeated("(", 60) + "1" + repeated(")", 60) + " }}"), "1");
  EXPECT_THAT(message(repeated("{% if 1 %}", 5000) + repeated("{% endif %}", 5000)),
              testing::HasSubstr("100 blocks"));
  EXPECT_THAT(message(repeated("{% set x %}", 5000)), testing::HasSubstr("100 blocks"));
  EXPECT_THAT(message("{% if 0 %}" + repeated("{% elif 0 %}", 5000) + "{% endif %}"),
              testing::HasSubstr("100 blocks"));
  EXPECT_EQ(render(repeated("{% set x = 1 %}{% if x %}.{% endif %}", 300)), std::string(300, '.'));
  EXPECT_THAT(message("{{ " + repeated("not ", 5000) + "1 }}"), testing::HasSubstr("2000 words"));
  EXPECT_THAT(message("{{ 'x'" + repeated("|trim", 5000) + " }}"),
              testing::HasSubstr("2000 words"));
  EXPECT_THAT(message(std::string(300000, 'x')), testing::HasSubstr("300000 bytes"));
}

TEST(ChatTemplate, LongMessagesPass) {
  const std::string content(6 << 20, 'x');
  EXPECT_EQ(render("{% for m in messages %}<{{ m.content }}>{% endfor %}", content),
            "<" + content + ">");
}

}  // namespace
}  // namespace kvscope
