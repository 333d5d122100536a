#include "chat_form.h"

#include <gtest/gtest.h>

#include "model_test_support.h"

namespace kvscope {
namespace {

ChatForm form_of(const std::string& source, const std::string& message) {
  return chat_form({source, "<s>", "</s>"}, message);
}

std::string written(const ChatForm& form, const std::string& message) {
  return form.before + "[" + message.substr(form.begin, form.end - form.begin) + "]" + form.after;
}

constexpr const char* plain =
    "{{ bos_token }}A {% for m in messages %}{{ m.content }}{% endfor %} B";
constexpr const char* trimmed = "A {% for m in messages %}{{ m.content | trim }}{% endfor %}\tB";

TEST(ChatForm, FindsTheMessage) {
  EXPECT_EQ(written(form_of(plain, "text"), "text"), "<s>A [text] B");
  EXPECT_EQ(written(form_of(plain, " \ntext \t"), " \ntext \t"), "<s>A [ \ntext \t] B");
  EXPECT_EQ(written(form_of(trimmed, " \ntext \t"), " \ntext \t"), "A [text]\tB");
  EXPECT_EQ(written(form_of("A{{ messages[0].content.lstrip() }}B", " x "), " x "), "A[x ]B");
  EXPECT_EQ(written(form_of("A{{ messages[0].content.rstrip('\n') }}B", " x \n"), " x \n"),
            "A[ x ]B");
}

/// Words of the template in the message, and a message that is one of the template's words.
TEST(ChatForm, IsNotMisledByTheMessage) {
  const char* roles = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %} user:";
  EXPECT_EQ(written(form_of(roles, "user"), "user"), "user: [user] user:");
  EXPECT_EQ(written(form_of(roles, "user: user"), "user: user"), "user: [user: user] user:");
  EXPECT_EQ(written(form_of(plain, "{{ bos_token }}<s>"), "{{ bos_token }}<s>"),
            "<s>A [{{ bos_token }}<s>] B");
}

/// Python strips more than ASCII's white space: here a no-break and an ideographic space.
TEST(ChatForm, StripsAsPythonDoes) {
  const std::string message = "\n\xC2\xA0text\xE3\x80\x80 ";
  EXPECT_EQ(written(form_of(trimmed, message), message), "A [text]\tB");
  EXPECT_EQ(written(form_of(plain, message), message), "<s>A [" + message + "] B");
}

TEST(ChatForm, WhiteSpaceAloneIsLegal) {
  EXPECT_EQ(written(form_of(trimmed, " \n"), " \n"), "A []\tB");
  EXPECT_EQ(written(form_of(plain, " \n"), " \n"), "<s>A [ \n] B");
}

TEST(ChatForm, MayDependOnTheMessage) {
  const char* source =
      "{% if 'no' in messages[0].content %}N{% else %}Y{% endif %} {{ messages[0].content }}!";
  EXPECT_EQ(written(form_of(source, "no way"), "no way"), "N [no way]!");
}

TEST(ChatForm, ChangedOrRepeatedMessagesAreRefused) {
  for (const char* source : {"{{ messages[0].content | upper }}", "{{ messages[0].content * 2 }}",
                             "nothing", "{{ messages[0].content[:2] }}"}) {
    const Error error = test::error_of([&] { form_of(source, "some text"); });
    EXPECT_EQ(error.code(), ErrorCode::unsupported) << source;
    EXPECT_THAT(error.message(), testing::HasSubstr("changes the message")) << source;
  }
}

}  // namespace
}  // namespace kvscope
