#include "gguf_tokenizer.h"

#include <fmt/format.h>

#include "byte_bpe.h"
#include "gguf.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

std::int32_t special_id(const GgufFile& file, const char* key, int vocabulary) {
  const std::int64_t id = file.integer(key, -1);
  KVSCOPE_CHECK(id < vocabulary, ErrorCode::corrupt_file,
                fmt::format("'{}' is {}, the vocabulary has {} tokens", key, id, vocabulary),
                file.path());
  return id < 0 ? -1 : static_cast<std::int32_t>(id);
}

}  // namespace

std::shared_ptr<const Tokenizer> read_gguf_tokenizer(const GgufFile& file, int vocabulary) {
  const std::string model = file.text("tokenizer.ggml.model");
  KVSCOPE_CHECK(!model.empty(), ErrorCode::missing_data, "the file holds no tokenizer", file.path(),
                "pass token ids with --token-ids");
  KVSCOPE_CHECK(
      model == "gpt2", ErrorCode::unsupported,
      fmt::format("tokenizer model '{}' is not supported (gpt2, byte-level BPE, is)", model),
      file.path(), "pass token ids with --token-ids");
  ByteBpeTables tables;
  tables.pre_tokenizer = file.text("tokenizer.ggml.pre", "gpt2");
  tables.where = file.path();
  tables.tokens = file.texts("tokenizer.ggml.tokens");
  tables.merges = file.texts("tokenizer.ggml.merges");
  tables.types = file.integers("tokenizer.ggml.token_type");
  KVSCOPE_CHECK(
      static_cast<int>(tables.tokens.size()) <= vocabulary, ErrorCode::corrupt_file,
      fmt::format("{} token texts, the embedding has {} rows", tables.tokens.size(), vocabulary),
      file.path());
  const int tokens = static_cast<int>(tables.tokens.size());
  tables.bos = special_id(file, "tokenizer.ggml.bos_token_id", tokens);
  tables.eos = special_id(file, "tokenizer.ggml.eos_token_id", tokens);
  tables.add_bos = file.flag("tokenizer.ggml.add_bos_token", false);
  tables.chat_template = file.text("tokenizer.chat_template");
  return make_byte_bpe(std::move(tables));
}

}  // namespace kvscope
