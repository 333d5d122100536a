#include "chat_form.h"

#include <fmt/format.h>

#include <vector>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

/// The string literals of a Jinja template, escapes resolved. What stands outside of {{ }} and {%
/// %} is text of its own and counts as a literal too.
std::vector<std::string> literals_of(const std::string& source) {
  std::vector<std::string> literals;
  std::string plain;
  for (std::size_t at = 0; at < source.size();) {
    const std::string_view two = std::string_view(source).substr(at, 2);
    if (two != "{{" && two != "{%" && two != "{#") {
      plain += source[at++];
      continue;
    }
    literals.push_back(std::move(plain));
    plain.clear();
    const std::string end = two == "{{" ? "}}" : two == "{%" ? "%}" : "#}";
    at += 2;
    while (at < source.size() && source.compare(at, 2, end) != 0) {
      const char quote = source[at++];
      if (two == "{#" || (quote != '\'' && quote != '"')) {
        continue;
      }
      std::string literal;
      for (; at < source.size() && source[at] != quote; ++at) {
        if (source[at] != '\\' || at + 1 == source.size()) {
          literal += source[at];
          continue;
        }
        const char escaped = source[++at];
        literal += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped;
      }
      ++at;
      literals.push_back(std::move(literal));
    }
    at += 2;
  }
  literals.push_back(std::move(plain));
  return literals;
}

/// The first literal that begins and ends so; empty if there is none.
std::string literal_like(const std::vector<std::string>& literals, const std::string& begin,
                         const std::string& end) {
  for (const std::string& literal : literals) {
    if (literal.size() >= begin.size() + end.size() && literal.starts_with(begin) &&
        literal.ends_with(end)) {
      return literal;
    }
  }
  return {};
}

ChatForm chatml(const std::vector<std::string>& literals) {
  // The system turn that the template writes when there is none stands in one literal.
  return {"ChatML", false,
          literal_like(literals, "<|im_start|>system\n", "<|im_end|>\n") + "<|im_start|>user\n",
          "<|im_end|>\n<|im_start|>assistant\n", false};
}

ChatForm llama3(bool dated) {
  const std::string system =
      dated ? "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
              "2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
            : "";
  return {"Llama-3", true, system + "<|start_header_id|>user<|end_header_id|>\n\n",
          "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", true};
}

ChatForm instruct(const std::string& source, const std::vector<std::string>& literals) {
  ChatForm form{"Llama-2 / Mistral", true, literal_like(literals, "[INST]", ""), "",
                source.find("strip()") != std::string::npos};
  for (const std::string& literal : literals) {
    if (form.after.empty() && literal.ends_with("[/INST]")) {
      form.after = literal;
    }
  }
  KVSCOPE_CHECK(!form.before.empty() && !form.after.empty() &&
                    form.before.find_first_not_of(' ', 6) == std::string::npos,
                ErrorCode::unsupported, "this form of Llama-2's chat template is not supported",
                "--chat", "render the prompt yourself and pass it without --chat, or --token-ids");
  return form;
}

ChatForm phi3(const std::vector<std::string>& literals) {
  const std::string line = literal_like(literals, "<|assistant|>", "\n").empty() ? "" : "\n";
  return {"Phi-3", false, "<|user|>" + line, "<|end|>" + line + "<|assistant|>" + line, false};
}

}  // namespace

ChatForm chat_form(const std::string& source) {
  KVSCOPE_CHECK(!source.empty(), ErrorCode::unsupported, "the model has no chat template", "--chat",
                "give the prompt as plain text, without --chat");
  const auto has = [&](const char* mark) { return source.find(mark) != std::string::npos; };
  const std::vector<std::string> literals = literals_of(source);
  const bool dated = has("strftime_now");
  const char* unknown = "unknown";
  if (has("<|im_sep|>")) {
    return {"Phi-4", false, "<|im_start|>user<|im_sep|>",
            "<|im_end|><|im_start|>assistant<|im_sep|>", false};
  }
  if (has("<|im_start|>") && has("## Metadata")) {
    unknown = "SmolLM3";
  } else if (has("<|im_start|>") && !dated) {
    return chatml(literals);
  } else if (has("<|start_header_id|>")) {
    return llama3(has("Cutting Knowledge Date"));
  } else if (has("[INST]") && !has("[SYSTEM_PROMPT]")) {
    return instruct(source, literals);
  } else if (has("<start_of_turn>")) {
    return {"Gemma", true, "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", true};
  } else if (has("<|end|>") && has("<|assistant|>") && !has("<|channel|>")) {
    return phi3(literals);
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("the model's chat template ({}) is not supported", unknown), "--chat",
              "known: ChatML, Llama-2, Llama-3, Mistral, Gemma, Phi-3, Phi-4; else render the "
              "prompt yourself and pass it without --chat, or --token-ids");
}

}  // namespace kvscope
