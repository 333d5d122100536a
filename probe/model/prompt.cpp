#include "kvscope/model/prompt.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

constexpr const char* turn_start = "<|im_start|>";
constexpr const char* turn_end = "<|im_end|>";

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

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

/// The system turn that a ChatML template puts first when the user gives none; empty if it has
/// none.
std::string default_system_turn(const std::string& chat_template) {
  const std::string opening = std::string(turn_start) + "system";
  if (chat_template.find("!= 'system'") == std::string::npos) {
    return {};
  }
  std::size_t begin = chat_template.find(opening + "\\n");
  begin = begin == std::string::npos ? chat_template.find(opening + "\n") : begin;
  const std::size_t end = begin == std::string::npos ? begin : chat_template.find(turn_end, begin);
  if (end == std::string::npos) {
    return {};
  }
  std::string turn = chat_template.substr(begin, end - begin) + turn_end + "\n";
  replace_all(turn, "\\n", "\n");
  return turn;
}

void check_chatml(const Tokenizer& tokenizer) {
  const std::string& form = tokenizer.chat_template();
  KVSCOPE_CHECK(!form.empty(), ErrorCode::unsupported, "the model has no chat template", "--chat",
                "give the prompt as plain text, without --chat");
  const char* name = form.find(turn_start) != std::string::npos              ? "ChatML"
                     : form.find("<|start_header_id|>") != std::string::npos ? "Llama-3"
                     : form.find("[INST]") != std::string::npos              ? "Llama-2 / Mistral"
                     : form.find("<start_of_turn>") != std::string::npos     ? "Gemma"
                                                                             : "unknown";
  KVSCOPE_CHECK(std::strcmp(name, "ChatML") == 0, ErrorCode::unsupported,
                fmt::format("the model's chat template ({}) is not supported; ChatML is", name),
                "--chat", "render the prompt yourself and pass it without --chat, or --token-ids");
}

}  // namespace

TokenTable build_prompt(const Tokenizer& tokenizer, const PromptRequest& request) {
  KVSCOPE_CHECK(!request.text.empty(), ErrorCode::usage, "the prompt is empty", "",
                "give at least one character of text");
  TokenTable table;
  if (request.chat) {
    check_chatml(tokenizer);
    append_text(table, tokenizer,
                default_system_turn(tokenizer.chat_template()) + turn_start + "user\n",
                Segment::chat_template);
  } else {
    const auto first = tokenizer.encode("", false, true);
    append(table, tokenizer, first, Segment::chat_template);
  }
  append_text(table, tokenizer, request.text, Segment::context);
  table.context_tokens = table.size();
  if (!request.question.empty()) {
    append_text(table, tokenizer, "\n\n" + request.question, Segment::question);
  }
  if (request.chat) {
    append_text(table, tokenizer, std::string(turn_end) + "\n" + turn_start + "assistant\n",
                Segment::chat_template);
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
  const char* const white = " \t\r\n\v\f";
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
