#include "chat_form.h"

#include <gtest/gtest.h>

#include "model_test_support.h"

namespace kvscope {
namespace {

using nlohmann::json;

/// What jinja2 makes of the families' templates, tests/golden/chat_templates.py.
TEST(ChatForm, AgreesWithJinja) {
  const json cases =
      json::parse(test::read_file(test::source_path("tests/golden/chat_templates.json")));
  EXPECT_EQ(cases.size(), 12u);
  for (const json& example : cases) {
    const ChatForm form = chat_form(example.at("template").get<std::string>());
    auto message = example.at("message").get<std::string>();
    if (form.trims) {
      message.erase(0, message.find_first_not_of(" \n"));
      message.erase(message.find_last_not_of(" \n") + 1);
    }
    EXPECT_EQ((form.begins_with_bos ? "<BOS>" : "") + form.before + message + form.after,
              example.at("rendered").get<std::string>())
        << example.at("name");
  }
}

TEST(ChatForm, OthersAreRefusedByName) {
  const auto message = [](const char* source) {
    return test::error_of([&] { chat_form(source); }).message();
  };
  EXPECT_THAT(message(""), testing::HasSubstr("no chat template"));
  EXPECT_THAT(message("{{ '<|im_start|>system\n## Metadata' }}"), testing::HasSubstr("SmolLM3"));
  EXPECT_THAT(message("{{ '### Instruction:' }}"), testing::HasSubstr("unknown"));
  EXPECT_THAT(message("{{ '[INST]<<SYS>>' + x + '[/INST]' }}"), testing::HasSubstr("Llama-2"));
}

TEST(ChatForm, BrokenTemplatesEnd) {
  for (const char* source :
       {"{{ '<|im_start|>", "{{", "{%", "{#", "{{ 'a\\", "<|im_start|>{{ \""}) {
    try {
      chat_form(source);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
    }
  }
}

}  // namespace
}  // namespace kvscope
