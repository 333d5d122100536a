#include "hf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "checked_json.h"
#include "kvscope/core/error.h"
#include "mapped_file.h"
#include "sentencepiece_model.h"
#include "tokenizer_json.h"

namespace kvscope {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t largest_tokenizer = 256 << 20;
constexpr std::int64_t largest_settings = 16 << 20;

bool exists(const std::string& path) {
  std::error_code failure;
  return fs::exists(path, failure);
}

/// A token as a text, or as an object with its content.
std::string token_text(const JsonFields& fields, const std::string& name) {
  if (!fields.has(name)) {
    return {};
  }
  return fields.value(name).is_object() ? fields.object(name).text("content", "")
                                        : fields.text(name, "");
}

/// The one chat template, or the one named default of several.
std::string template_of(const JsonFields& fields) {
  if (!fields.has("chat_template") || fields.value("chat_template").is_string()) {
    return fields.text("chat_template", "");
  }
  for (const json& entry : fields.array("chat_template")) {
    const JsonFields named(entry, fields.where(), "chat_template.");
    if (named.text("name", "") == "default") {
      return named.text("template", "");
    }
  }
  return {};
}

void add_ends(const std::string& path, std::vector<std::int32_t>& ends) {
  if (!exists(path)) {
    return;
  }
  const json file = read_json_file(path, largest_settings);
  const JsonFields fields(file, path);
  if (!fields.has("eos_token_id")) {
    return;
  }
  const json& ids = fields.value("eos_token_id");
  for (const json& id : ids.is_array() ? ids : json::array({ids})) {
    if (!id.is_number_integer() || id.get<std::int64_t>() > INT32_MAX) {
      fields.refuse("eos_token_id", "it must be an id or a list of ids");
    }
    ends.push_back(static_cast<std::int32_t>(std::max<std::int64_t>(-1, id.get<std::int64_t>())));
  }
}

TokenizerSettings read_settings(const fs::path& folder) {
  TokenizerSettings settings;
  add_ends((folder / "generation_config.json").string(), settings.ends);
  add_ends((folder / "config.json").string(), settings.ends);
  const std::string path = (folder / "tokenizer_config.json").string();
  if (exists(path)) {
    const json file = read_json_file(path, largest_settings);
    const JsonFields fields(file, path);
    settings.bos = token_text(fields, "bos_token");
    settings.eos = token_text(fields, "eos_token");
    if (fields.has("add_bos_token")) {
      settings.adds_bos = fields.flag("add_bos_token", false) ? 1 : 0;
    }
    settings.chat_template = template_of(fields);
  }
  const std::string jinja = (folder / "chat_template.jinja").string();
  if (exists(jinja)) {
    const MappedFile file(jinja);
    KVSCOPE_CHECK(static_cast<std::int64_t>(file.bytes().size()) <= largest_settings,
                  ErrorCode::corrupt_file, "the chat template is too long", jinja);
    settings.chat_template.assign(file.bytes().begin(), file.bytes().end());
  }
  return settings;
}

std::shared_ptr<const Tokenizer> read_model_file(const std::string& path,
                                                 const TokenizerSettings& settings,
                                                 int vocabulary) {
  const MappedFile file(path);
  SentencePieceTables tables = read_sentencepiece_model(file.bytes(), path);
  KVSCOPE_CHECK(
      static_cast<int>(tables.tokens.size()) <= vocabulary, ErrorCode::corrupt_file,
      fmt::format("{} token texts, the embedding has {} rows", tables.tokens.size(), vocabulary),
      path);
  const auto find = [&](const std::string& text, std::int32_t otherwise) {
    const auto found = std::find(tables.tokens.begin(), tables.tokens.end(), text);
    return text.empty() || found == tables.tokens.end()
               ? otherwise
               : static_cast<std::int32_t>(found - tables.tokens.begin());
  };
  tables.bos = find(settings.bos, tables.bos);
  tables.eos = find(settings.eos, tables.eos);
  tables.add_bos = settings.adds_bos != 0;
  tables.ends = settings.ends;
  tables.chat_template = settings.chat_template;
  return make_sentencepiece(std::move(tables));
}

}  // namespace

std::shared_ptr<const Tokenizer> read_hf_tokenizer(const std::string& folder, int vocabulary) {
  const TokenizerSettings settings = read_settings(folder);
  const std::string path = (fs::path(folder) / "tokenizer.json").string();
  if (exists(path)) {
    const json file = read_json_file(path, largest_tokenizer);
    return read_tokenizer_json(file, settings, vocabulary, path);
  }
  const std::string model = (fs::path(folder) / "tokenizer.model").string();
  KVSCOPE_CHECK(exists(model), ErrorCode::missing_data,
                "the folder holds neither tokenizer.json nor tokenizer.model", folder,
                "pass token ids with --token-ids");
  return read_model_file(model, settings, vocabulary);
}

}  // namespace kvscope
