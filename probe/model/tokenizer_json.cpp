#include "tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>

#include "byte_bpe.h"
#include "kvscope/core/error.h"
#include "sentencepiece.h"
#include "tokenizer_steps.h"

namespace kvscope {
namespace {

using nlohmann::json;

/// Token texts by id, scores where there are any, and the added tokens.
struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<double> scores;
  std::vector<AddedToken> added;

  std::int32_t find(const std::string& text) const {
    const auto found = std::find(tokens.begin(), tokens.end(), text);
    return found == tokens.end() || text.empty()
               ? -1
               : static_cast<std::int32_t>(found - tokens.begin());
  }
};

class Reader {
 public:
  Reader(const json& file, const TokenizerSettings& settings, int vocabulary,
         const std::string& where)
      : fields_(file, where),
        model_(fields_.object("model")),
        settings_(settings),
        vocabulary_(vocabulary) {}

  std::shared_ptr<const Tokenizer> read();

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::corrupt_file, what, fields_.where(), "download the tokenizer again");
  }
  void put(std::int64_t id, const std::string& text);
  void read_vocabulary(bool unigram);
  void read_added();
  void refuse_model_options() const;
  std::vector<std::pair<std::string, std::string>> read_merges() const;
  std::int32_t template_bos() const;
  std::int32_t template_bos(const JsonFields& step) const;
  std::int32_t bos() const {
    return settings_.bos.empty() ? template_bos() : words_.find(settings_.bos);
  }
  bool adds_bos() const {
    return settings_.adds_bos >= 0 ? settings_.adds_bos == 1 : template_bos() >= 0;
  }
  std::shared_ptr<const Tokenizer> byte_level(TokenizerSteps steps);
  std::shared_ptr<const Tokenizer> character_level(const TokenizerSteps& steps, bool unigram);

  JsonFields fields_;
  JsonFields model_;
  const TokenizerSettings& settings_;
  int vocabulary_;
  Vocabulary words_;
};

void Reader::put(std::int64_t id, const std::string& text) {
  if (id < 0 || id >= vocabulary_) {
    fail(fmt::format("token '{}' has id {}, the embedding has {} rows", text.substr(0, 40), id,
                     vocabulary_));
  }
  const auto at = static_cast<std::size_t>(id);
  if (at >= words_.tokens.size()) {
    words_.tokens.resize(at + 1);
  }
  if (!words_.tokens[at].empty() && words_.tokens[at] != text) {
    fail(fmt::format("tokens '{}' and '{}' share id {}", words_.tokens[at].substr(0, 40),
                     text.substr(0, 40), id));
  }
  words_.tokens[at] = text;
}

void Reader::read_vocabulary(bool unigram) {
  if (unigram) {
    std::int64_t id = 0;
    for (const json& row : model_.array("vocab")) {
      if (!row.is_array() || row.size() != 2 || !row[0].is_string() || !row[1].is_number()) {
        fail(fmt::format("entry {} of the vocabulary is no text with a score", id));
      }
      put(id++, row[0].get<std::string>());
      words_.scores.push_back(row[1].get<double>());
    }
    return;
  }
  const json& vocabulary = model_.value("vocab");
  if (!vocabulary.is_object()) {
    model_.refuse("vocab", "it must be an object");
  }
  for (const auto& [text, id] : vocabulary.items()) {
    if (!id.is_number_integer()) {
      fail(fmt::format("token '{}' has no id", text.substr(0, 40)));
    }
    put(id.get<std::int64_t>(), text);
  }
}

void Reader::read_added() {
  if (!fields_.has("added_tokens")) {
    return;
  }
  for (const json& entry : fields_.array("added_tokens")) {
    const JsonFields token(entry, fields_.where(), "added_tokens.");
    AddedToken added;
    added.text = token.text("content", "");
    added.id = static_cast<std::int32_t>(token.integer("id", 0, vocabulary_ - 1));
    added.special = token.flag("special", false);
    added.strips_left = token.flag("lstrip", false);
    added.strips_right = token.flag("rstrip", false);
    added.single_word = token.flag("single_word", false);
    put(added.id, added.text);
    words_.added.push_back(std::move(added));
  }
  words_.scores.resize(words_.scores.empty() ? 0 : words_.tokens.size());
}

void Reader::refuse_model_options() const {
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model_.text(name, "").empty()) {
      model_.unsupported(name, "only an empty text is supported");
    }
  }
  if (model_.number("dropout", 0.0) > 0) {
    model_.unsupported("dropout", "tokenizing at random is not supported");
  }
}

std::vector<std::pair<std::string, std::string>> Reader::read_merges() const {
  std::vector<std::pair<std::string, std::string>> merges;
  for (const json& merge : model_.array("merges")) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : std::string();
    const std::size_t space = text.find(' ');
    if (space == std::string::npos) {
      fail(fmt::format("merge {} is no pair", merges.size()));
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return merges;
}

std::int32_t Reader::template_bos(const JsonFields& step) const {
  const std::string type = step.text("type", "");
  if (type == "ByteLevel") {
    return -1;
  }
  if (type == "Sequence") {
    std::int32_t found = -1;
    for (const json& part : step.array("processors")) {
      found = std::max(found, template_bos(JsonFields(part, step.where(), "post_processor.")));
    }
    return found;
  }
  if (type != "TemplateProcessing") {
    throw Error(ErrorCode::unsupported,
                fmt::format("the post-processor '{}' is not supported", type.substr(0, 40)),
                step.where(), "pass token ids with --token-ids");
  }
  std::int32_t bos = -1;
  bool text_seen = false;
  for (const json& part : step.array("single")) {
    const JsonFields item(part, step.where(), "post_processor.single.");
    if (!item.has("SpecialToken")) {
      text_seen = true;
      continue;
    }
    if (text_seen || bos >= 0) {
      step.unsupported("single", "only one token before the text is supported");
    }
    bos = words_.find(item.object("SpecialToken").text("id", ""));
  }
  return bos;
}

std::int32_t Reader::template_bos() const {
  return fields_.has("post_processor") ? template_bos(fields_.object("post_processor")) : -1;
}

std::shared_ptr<const Tokenizer> Reader::byte_level(TokenizerSteps steps) {
  ByteBpeTables tables;
  tables.where = fields_.where();
  tables.patterns = std::move(steps.patterns);
  tables.nfc = steps.nfc;
  tables.ignores_merges = model_.flag("ignore_merges", false);
  for (const auto& [left, right] : read_merges()) {
    tables.merges.push_back(left + " " + right);
  }
  tables.bos = bos();
  tables.add_bos = adds_bos();
  tables.eos = words_.find(settings_.eos);
  tables.ends = settings_.ends;
  tables.chat_template = settings_.chat_template;
  tables.tokens = std::move(words_.tokens);
  tables.added = std::move(words_.added);
  return make_byte_bpe(std::move(tables));
}

std::shared_ptr<const Tokenizer> Reader::character_level(const TokenizerSteps& steps,
                                                         bool unigram) {
  SentencePieceTables tables;
  tables.where = fields_.where();
  tables.unigram = unigram;
  tables.single_precision = false;
  if (!unigram) {
    tables.merges = read_merges();
  }
  tables.prefix = steps.prefix;
  tables.splits_words = steps.splits_words;
  tables.byte_fallback = model_.flag("byte_fallback", false);
  tables.fuse_unknown = unigram || model_.flag("fuse_unk", false);
  tables.unknown = unigram
                       ? static_cast<std::int32_t>(model_.integer("unk_id", 0, vocabulary_ - 1, -1))
                       : words_.find(model_.text("unk_token", ""));
  tables.bos = bos();
  tables.add_bos = adds_bos();
  tables.eos = words_.find(settings_.eos);
  tables.ends = settings_.ends;
  tables.chat_template = settings_.chat_template;
  tables.types.assign(words_.tokens.size(), 1);
  for (const AddedToken& token : words_.added) {
    tables.types[static_cast<std::size_t>(token.id)] = token.special ? 3 : 4;
  }
  if (tables.byte_fallback) {
    for (std::size_t token = 0; token < words_.tokens.size(); ++token) {
      if (words_.tokens[token].size() == 6 && words_.tokens[token].starts_with("<0x")) {
        tables.types[token] = 6;
      }
    }
  }
  tables.tokens = std::move(words_.tokens);
  tables.scores = std::move(words_.scores);
  tables.added = std::move(words_.added);
  return make_sentencepiece(std::move(tables));
}

std::shared_ptr<const Tokenizer> Reader::read() {
  const std::string type = model_.text("type", model_.has("merges") ? "BPE" : "");
  const bool unigram = type == "Unigram";
  if (type != "BPE" && !unigram) {
    throw Error(ErrorCode::unsupported,
                fmt::format("the tokenizer model '{}' is not supported", type.substr(0, 40)),
                fields_.where(), "known: BPE, Unigram; pass token ids with --token-ids");
  }
  TokenizerSteps steps = read_tokenizer_steps(fields_);
  refuse_model_options();
  read_vocabulary(unigram);
  read_added();
  if (steps.bytes && !unigram) {
    return byte_level(std::move(steps));
  }
  if (!steps.space_marks || !steps.patterns.empty() || steps.nfc || steps.bytes) {
    throw Error(ErrorCode::unsupported,
                "this mixture of normalizer and pre-tokenizer is not supported", fields_.where(),
                "known: byte-level BPE; SentencePiece with U+2581 for spaces");
  }
  return character_level(steps, unigram);
}

}  // namespace

std::shared_ptr<const Tokenizer> read_tokenizer_json(const json& file,
                                                     const TokenizerSettings& settings,
                                                     int vocabulary, const std::string& where) {
  return Reader(file, settings, vocabulary, where).read();
}

}  // namespace kvscope
