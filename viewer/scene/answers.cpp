#include "kvscope/scene/answers.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kvscope/core/error.h"

namespace kvscope {

const Answer* Answers::of(const std::string& method, const std::string& keep) const {
  const auto found = std::find_if(methods.begin(), methods.end(), [&](const Answer& answer) {
    return answer.method == method && answer.keep == keep;
  });
  return found == methods.end() ? nullptr : &*found;
}

Answers read_answers(const std::string& json, const std::string& capture_hash,
                     const std::string& where) {
  Answers answers;
  try {
    const nlohmann::json root = nlohmann::json::parse(json);
    KVSCOPE_CHECK(root.at("format") == "kvscope.answers", ErrorCode::corrupt_file,
                  "this is no file of answers", where,
                  "give answers.json of `kvscope generate -o`");
    KVSCOPE_CHECK(root.at("capture_hash") == capture_hash, ErrorCode::usage,
                  "the answers belong to another prompt or model", where,
                  "generate with the prompt that was captured");
    answers.full = root.at("full").at("text").get<std::string>();
    for (const auto& row : root.at("methods")) {
      Answer answer;
      answer.method = row.at("method").get<std::string>();
      answer.keep = row.at("keep").get<std::string>();
      answer.text = row.at("text").get<std::string>();
      answer.first_divergence = row.at("first_divergence").get<int>();
      answer.mean_divergence = row.at("mean_next_token_kl_nats").is_number()
                                   ? row.at("mean_next_token_kl_nats").get<double>()
                                   : answer.mean_divergence;
      answer.cache_bytes = row.at("cache_bytes").get<std::int64_t>();
      answers.methods.push_back(answer);
    }
  } catch (const nlohmann::json::exception& failure) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("the answers cannot be read: {}", failure.what()), where,
                "generate again");
  }
  return answers;
}

std::size_t shared_beginning(const std::string& a, const std::string& b) {
  auto at = static_cast<std::size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                                     a.begin());
  const auto continues = [](const std::string& text, std::size_t byte) {
    return byte < text.size() && (static_cast<unsigned char>(text[byte]) & 0xC0) == 0x80;
  };
  while (at > 0 && (continues(a, at) || continues(b, at))) {
    --at;
  }
  return at;
}

}  // namespace kvscope
