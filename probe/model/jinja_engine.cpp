#include "jinja_engine.h"

#include <fmt/format.h>
#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <memory>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

namespace kvscope {
namespace {

/// The engine's lexer loses what stands first on the line of the first block, a line end before it
/// included; an empty expression before it keeps it.
constexpr std::string_view guard = "{{''}}";

bool needs_guard(const std::string& source) {
  if (source.empty() || source.front() == ' ' || source.front() == '\t') {
    return false;
  }
  return source.front() != '{' || source.size() < 2 ||
         std::string_view("{%#").find(source[1]) == std::string_view::npos;
}

/// The byte at "line L, column C" (both from 1, columns in bytes).
std::int64_t byte_of(const std::string& source, std::int64_t line, std::int64_t column) {
  std::size_t begin = 0;
  for (; line > 1; --line) {
    begin = source.find('\n', begin) + 1;
    if (begin == 0) {
      return -1;
    }
  }
  return static_cast<std::int64_t>(begin) + column - 1;
}

std::int64_t number_after(const std::string& text, const std::string& mark) {
  const std::size_t at = text.find(mark);
  std::int64_t number = -1;
  if (at != std::string::npos) {
    std::from_chars(text.data() + at + mark.size(), text.data() + text.size(), number);
  }
  return number;
}

/// The name before the parenthesis at `byte`.
std::string callee_before(const std::string& source, std::int64_t byte) {
  if (byte < 0 || byte > static_cast<std::int64_t>(source.size())) {
    return {};
  }
  const auto end = static_cast<std::size_t>(byte);
  std::size_t begin = end;
  while (begin > 0 && (std::isalnum(static_cast<unsigned char>(source[begin - 1])) != 0 ||
                       source[begin - 1] == '_')) {
    --begin;
  }
  return source.substr(begin, end - begin);
}

/// The engine's message is an excerpt of the source with a mark below, between a head and a tail.
JinjaError error_of(const std::string& text, const std::string& source, std::int64_t shift) {
  const std::int64_t line = number_after(text, " at line ");
  std::int64_t byte = line < 0 ? -1 : byte_of(source, line, number_after(text, ", column "));
  const std::string callee = callee_before(source, byte);
  const std::string tail = "\nError: ";
  const std::size_t at = text.rfind(tail);
  std::string message =
      at == std::string::npos ? text.substr(0, text.find("\n...")) : text.substr(at + tail.size());
  for (const char* prefix : {"lexer: ", "parser: ", "Parser Error: ", "NotImplemented: "}) {
    if (message.starts_with(prefix)) {
      message.erase(0, std::string_view(prefix).size());
    }
  }
  if (message.find("is not a function") != std::string::npos && !callee.empty()) {
    message = fmt::format("'{}' is no function or method known here", callee);
  }
  return {message, byte < 0 ? -1 : std::max<std::int64_t>(0, byte - shift)};
}

/// What {{ }} writes. The engine writes nothing for none and a list's items one after the other,
/// where Jinja writes them as Python does.
struct Printed : public jinja::statement {
  explicit Printed(jinja::statement_ptr&& of) : inner(std::move(of)) { pos = inner->pos; }
  jinja::value execute_impl(jinja::context& context) const override {
    jinja::value result = inner->execute(context);
    if (result->is_none()) {
      return jinja::mk_val<jinja::value_string>(std::string("None"));
    }
    if (jinja::is_val<jinja::value_array>(result) || jinja::is_val<jinja::value_object>(result)) {
      throw std::runtime_error("a list or mapping is written as it is, without a filter");
    }
    return result;
  }
  jinja::statement_ptr inner;
};

void print_as_jinja(jinja::statements& body) {
  for (jinja::statement_ptr& node : body) {
    if (auto* branch = dynamic_cast<jinja::if_statement*>(node.get())) {
      print_as_jinja(branch->body);
      print_as_jinja(branch->alternate);
    } else if (auto* loop = dynamic_cast<jinja::for_statement*>(node.get())) {
      print_as_jinja(loop->body);
      print_as_jinja(loop->default_block);
    } else if (auto* set = dynamic_cast<jinja::set_statement*>(node.get())) {
      print_as_jinja(set->body);
    } else if (auto* macro = dynamic_cast<jinja::macro_statement*>(node.get())) {
      print_as_jinja(macro->body);
    } else if (auto* call = dynamic_cast<jinja::call_statement*>(node.get())) {
      print_as_jinja(call->body);
    } else if (auto* filter = dynamic_cast<jinja::filter_statement*>(node.get())) {
      print_as_jinja(filter->body);
    } else if (dynamic_cast<jinja::expression*>(node.get()) != nullptr) {
      node = std::make_unique<Printed>(std::move(node));
    }
  }
}

/// The name of a filter, a test or a method; empty if it is none.
std::string name_of(const jinja::statement* node) {
  if (const auto* call = dynamic_cast<const jinja::call_expression*>(node)) {
    node = call->callee.get();
  }
  if (const auto* member = dynamic_cast<const jinja::member_expression*>(node)) {
    node = member->computed ? nullptr : member->property.get();
  }
  const auto* name = dynamic_cast<const jinja::identifier*>(node);
  return name == nullptr ? std::string() : name->val;
}

/// Throws JinjaError on what the engine takes but does otherwise than Jinja.
void refuse_what_differs(const jinja::statement& node) {
  if (const auto* filter = dynamic_cast<const jinja::filter_expression*>(&node)) {
    const std::string name = name_of(filter->filter.get());
    const auto* with = dynamic_cast<const jinja::call_expression*>(filter->filter.get());
    if ((name == "select" || name == "reject") && (with == nullptr || with->args.size() < 2)) {
      throw JinjaError(
          fmt::format("the filter '{}' is not known here with a test that has no argument", name),
          static_cast<std::int64_t>(node.pos));
    }
  }
  const auto* call = dynamic_cast<const jinja::call_expression*>(&node);
  if (call != nullptr && call->args.empty()) {
    const std::string name = name_of(call);
    if (name == "split" || name == "rsplit") {
      throw JinjaError(fmt::format("'{}' is not known here without a separator", name),
                       static_cast<std::int64_t>(node.pos));
    }
  }
}

jinja::program parsed(const std::string& source) {
  jinja::lexer lexer;
  jinja::program program = jinja::parse_from_tokens(lexer.tokenize(source));
  jinja::context context;
  context.visitor = [&](bool, const jinja::statement* node,
                        const std::vector<jinja::visitor_pair>& parts) {
    refuse_what_differs(*node);
    for (const jinja::visitor_pair& part : parts) {
      for (const jinja::statement* child : part.second) {
        if (child != nullptr) {
          child->visit(context);
        }
      }
    }
  };
  for (const jinja::statement_ptr& node : program.body) {
    node->visit(context);
  }
  print_as_jinja(program.body);
  return program;
}

/// Runs `action` on the source as the engine needs it, its exceptions turned into ours.
template <typename Action>
auto translated(const std::string& source, Action action) {
  const std::string guarded = needs_guard(source) ? std::string(guard) + source : source;
  const auto shift = static_cast<std::int64_t>(guarded.size() - source.size());
  try {
    return action(guarded);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const JinjaError& error) {
    throw JinjaError(error.what(), error.byte() - shift);
  } catch (const std::exception& error) {
    const std::string_view what = error.what();
    if (what == "std::bad_alloc" || what.ends_with("\nError: std::bad_alloc")) {
      throw std::bad_alloc();
    }
    throw error_of(error.what(), guarded, shift);
  }
}

jinja::value text(const std::string& bytes) {
  return jinja::mk_val<jinja::value_string>(bytes);
}

}  // namespace

void parse_jinja(const std::string& source) {
  translated(source, [](const std::string& guarded) { parsed(guarded); });
}

std::string run_jinja(const ChatTemplate& chat_template, const ChatRequest& request) {
  return translated(chat_template.source, [&](const std::string& source) {
    const jinja::program program = parsed(source);
    jinja::context context(source);
    context.current_time = request.time;
    auto messages = jinja::mk_val<jinja::value_array>();
    for (const ChatMessage& message : request.messages) {
      auto turn = jinja::mk_val<jinja::value_object>();
      turn->insert("role", text(message.role));
      turn->insert("content", text(message.content));
      messages->push_back(turn);
    }
    context.set_val("messages", messages);
    context.set_val("tools", jinja::mk_val<jinja::value_none>());
    context.set_val("documents", jinja::mk_val<jinja::value_none>());
    context.set_val("add_generation_prompt",
                    jinja::mk_val<jinja::value_bool>(request.add_generation_prompt));
    if (!chat_template.bos.empty()) {
      context.set_val("bos_token", text(chat_template.bos));
    }
    if (!chat_template.eos.empty()) {
      context.set_val("eos_token", text(chat_template.eos));
    }
    jinja::runtime runtime(context);
    return jinja::render_string_parts(
        jinja::runtime::gather_string_parts(runtime.execute(program)));
  });
}

}  // namespace kvscope
