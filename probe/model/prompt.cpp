#include "kvscope/model/prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

#include "chat_form.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

void append(TokenTable& table, const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids,
            Segment segment) {
  for (const std::int32_t id : ids) {
    table.append(id, table.size(), segment, tokenizer.piece(id));
  }
}

void append_text(TokenTable& table, const Tokenizer& tokenizer, const std::string& text,
                 Segment segment) {
  append(table, tokenizer, tokenizer.encode(text, segment == Segment::chat_template, false),
         segment);
}

constexpr const char* white = " \t\r\n\v\f";

/// The message without white space at its ends; the end of the last part is the end of the message.
PromptRequest trimmed(PromptRequest request) {
  request.text.erase(0, std::min(request.text.find_first_not_of(white), request.text.size()));
  std::string& last = request.question.empty() ? request.text : request.question;
  last.erase(last.find_last_not_of(white) + 1);
  return request;
}

}  // namespace

TokenTable build_prompt(const Tokenizer& tokenizer, const PromptRequest& asked) {
  KVSCOPE_CHECK(!asked.text.empty(), ErrorCode::usage, "the prompt is empty", "",
                "give at least one character of text");
  TokenTable table;
  const ChatForm form = asked.chat ? chat_form(tokenizer.chat_template()) : ChatForm{};
  const PromptRequest request = form.trims ? trimmed(asked) : asked;
  if (asked.chat) {
    if (form.begins_with_bos && tokenizer.bos() >= 0) {
      append(table, tokenizer, {tokenizer.bos()}, Segment::chat_template);
    }
    append_text(table, tokenizer, form.before, Segment::chat_template);
  } else {
    append(table, tokenizer, tokenizer.encode("", false, true), Segment::chat_template);
  }
  append_text(table, tokenizer, request.text, Segment::context);
  table.context_tokens = table.size();
  if (!request.question.empty()) {
    append_text(table, tokenizer, "\n\n" + request.question, Segment::question);
  }
  if (asked.chat) {
    append_text(table, tokenizer, form.after, Segment::chat_template);
  }
  table.prompt_tokens = table.size();
  if (request.question.empty()) {
    table.context_tokens = table.prompt_tokens;
  }
  return table;
}

TokenTable read_token_ids(const std::string& path, const Tokenizer& tokenizer) {
  std::ifstream file(path, std::ios::binary);
  KVSCOPE_CHECK(file.good(), ErrorCode::io, fmt::format("cannot read: {}", std::strerror(errno)),
                path, "check the name and the permissions");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  TokenTable table;
  for (std::size_t at = text.find_first_not_of(white); at != std::string::npos;) {
    const std::size_t end = std::min(text.find_first_of(white, at), text.size());
    const std::string word = text.substr(at, end - at);
    std::int32_t id = -1;
    const auto [stop, failure] = std::from_chars(word.data(), word.data() + word.size(), id);
    KVSCOPE_CHECK(
        failure == std::errc{} && stop == word.data() + word.size() && id >= 0 &&
            id < tokenizer.vocabulary(),
        ErrorCode::usage,
        fmt::format("'{}' is no token id below {}", word.substr(0, 40), tokenizer.vocabulary()),
        fmt::format("{}, byte {}", path, at), "write integers separated by white space");
    table.append(id, table.size(), Segment::context, tokenizer.piece(id));
    at = text.find_first_not_of(white, end);
  }
  KVSCOPE_CHECK(table.size() > 0, ErrorCode::usage, "the file holds no token id", path,
                "write integers separated by white space");
  table.prompt_tokens = table.context_tokens = table.size();
  return table;
}

}  // namespace kvscope
