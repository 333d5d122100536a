#include "gguf_tokenizer.h"

#include <fmt/format.h>

#include "byte_bpe.h"
#include "gguf.h"
#include "kvscope/core/error.h"
#include "sentencepiece.h"

namespace kvscope {
namespace {

std::int32_t special_id(const GgufFile& file, const char* key, int vocabulary) {
  const std::int64_t id = file.integer(key, -1);
  KVSCOPE_CHECK(id < vocabulary, ErrorCode::corrupt_file,
                fmt::format("'{}' is {}, the vocabulary has {} tokens", key, id, vocabulary),
                file.path());
  return id < 0 ? -1 : static_cast<std::int32_t>(id);
}

const std::vector<std::string>& read_tokens(const GgufFile& file, int vocabulary) {
  const auto& tokens = file.texts("tokenizer.ggml.tokens");
  KVSCOPE_CHECK(static_cast<int>(tokens.size()) <= vocabulary, ErrorCode::corrupt_file,
                fmt::format("{} token texts, the embedding has {} rows", tokens.size(), vocabulary),
                file.path());
  return tokens;
}

std::shared_ptr<const Tokenizer> read_byte_bpe(const GgufFile& file, int vocabulary) {
  ByteBpeTables tables;
  tables.pre_tokenizer = file.text("tokenizer.ggml.pre", "gpt2");
  tables.nfc = tables.pre_tokenizer == "qwen2";  // part of the family's tokenizer, not of the file
  tables.where = file.path();
  tables.tokens = read_tokens(file, vocabulary);
  tables.merges = file.texts("tokenizer.ggml.merges");
  tables.types = file.integers("tokenizer.ggml.token_type");
  const int tokens = static_cast<int>(tables.tokens.size());
  tables.bos = special_id(file, "tokenizer.ggml.bos_token_id", tokens);
  tables.eos = special_id(file, "tokenizer.ggml.eos_token_id", tokens);
  tables.add_bos = file.flag("tokenizer.ggml.add_bos_token", false);
  tables.chat_template = file.text("tokenizer.chat_template");
  return make_byte_bpe(std::move(tables));
}

std::shared_ptr<const Tokenizer> read_sentencepiece(const GgufFile& file, int vocabulary,
                                                    bool unigram) {
  SentencePieceTables tables;
  tables.where = file.path();
  tables.unigram = unigram;
  tables.tokens = read_tokens(file, vocabulary);
  tables.scores = file.reals("tokenizer.ggml.scores");
  tables.types = file.integers("tokenizer.ggml.token_type");
  KVSCOPE_CHECK(tables.scores.size() == tables.tokens.size() &&
                    (tables.types.empty() || tables.types.size() == tables.tokens.size()),
                ErrorCode::corrupt_file,
                fmt::format("{} scores and {} types for {} tokens", tables.scores.size(),
                            tables.types.size(), tables.tokens.size()),
                file.path());
  split_added(tables);
  const bool prefix = file.flag("tokenizer.ggml.add_space_prefix", true);
  tables.prefix = prefix ? SpacePrefix::every : SpacePrefix::none;
  tables.collapse_spaces = file.flag("tokenizer.ggml.remove_extra_whitespaces", false);
  const int tokens = static_cast<int>(tables.tokens.size());
  tables.unknown = special_id(file, "tokenizer.ggml.unknown_token_id", tokens);
  tables.bos = special_id(file, "tokenizer.ggml.bos_token_id", tokens);
  tables.eos = special_id(file, "tokenizer.ggml.eos_token_id", tokens);
  tables.add_bos = file.flag("tokenizer.ggml.add_bos_token", !unigram);
  tables.chat_template = file.text("tokenizer.chat_template");
  return make_sentencepiece(std::move(tables));
}

}  // namespace

std::shared_ptr<const Tokenizer> read_gguf_tokenizer(const GgufFile& file, int vocabulary) {
  const std::string model = file.text("tokenizer.ggml.model");
  KVSCOPE_CHECK(!model.empty(), ErrorCode::missing_data, "the file holds no tokenizer", file.path(),
                "pass token ids with --token-ids");
  if (model == "gpt2") {
    return read_byte_bpe(file, vocabulary);
  }
  KVSCOPE_CHECK(model == "llama" || model == "t5", ErrorCode::unsupported,
                fmt::format("tokenizer model '{}' is not supported", model), file.path(),
                "known: gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (unigram); pass token "
                "ids with --token-ids");
  KVSCOPE_CHECK(
      file.metadata().count("tokenizer.ggml.precompiled_charsmap") == 0, ErrorCode::unsupported,
      "'tokenizer.ggml.precompiled_charsmap': normalising text by a table is not supported",
      file.path(), "pass token ids with --token-ids");
  return read_sentencepiece(file, vocabulary, model == "t5");
}

}  // namespace kvscope
