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

/// The template's text before the message; a BOS at its beginning is a token, whatever the
/// tokenizer makes of its text.
void append_before(TokenTable& table, const Tokenizer& tokenizer, std::string text,
                   const std::string& bos) {
  if (!bos.empty() && text.starts_with(bos)) {
    append(table, tokenizer, {tokenizer.bos()}, Segment::chat_template);
    text.erase(0, bos.size());
  }
  append_text(table, tokenizer, text, Segment::chat_template);
}

std::string piece_or_none(const Tokenizer& tokenizer, std::int32_t id) {
  return id < 0 ? std::string() : tokenizer.piece(id);
}

/// Context and question, one after the other, as the template writes them.
struct Message {
  std::string context;
  std::string question;
};

/// The message's bytes [begin, end) in its two parts.
Message cut(const Message& whole, std::size_t begin, std::size_t end) {
  const std::size_t middle = whole.context.size();
  const std::string text = whole.context + whole.question;
  const std::size_t first = std::min(end, std::max(begin, middle));
  return {begin < middle ? text.substr(begin, std::min(end, middle) - begin) : std::string(),
          text.substr(first, end - first)};
}

}  // namespace

TokenTable build_prompt(const Tokenizer& tokenizer, const PromptRequest& request) {
  KVSCOPE_CHECK(!request.text.empty(), ErrorCode::usage, "the prompt is empty", "",
                "give at least one character of text");
  TokenTable table;
  Message message{request.text, request.question.empty() ? "" : "\n\n" + request.question};
  ChatForm form;
  if (request.chat) {
    const ChatTemplate chat_template{tokenizer.chat_template(),
                                     piece_or_none(tokenizer, tokenizer.bos()),
                                     piece_or_none(tokenizer, tokenizer.eos())};
    form = chat_form(chat_template, message.context + message.question);
    message = cut(message, form.begin, form.end);
    append_before(table, tokenizer, form.before, chat_template.bos);
  } else {
    append(table, tokenizer, tokenizer.encode("", false, true), Segment::chat_template);
  }
  append_text(table, tokenizer, message.context, Segment::context);
  table.context_tokens = table.size();
  if (!message.question.empty()) {
    append_text(table, tokenizer, message.question, Segment::question);
  }
  if (request.chat) {
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
