#include "sentencepiece_model.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

using Bytes = std::span<const std::uint8_t>;

/// One field of a protocol buffer message.
struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;  ///< integers; floats as their bits
  Bytes bytes;              ///< texts and messages
};

/// Walks through a message.
class Message {
 public:
  Message(Bytes bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  bool next(Field& field) {
    if (at_ == bytes_.size()) {
      return false;
    }
    const std::uint64_t tag = varint();
    field = {tag >> 3, 0, {}};
    switch (tag & 7) {
      case 0:
        field.value = varint();
        return true;
      case 1:
        field.value = fixed<std::uint64_t>();
        return true;
      case 2: {
        const std::uint64_t size = varint();
        check(size <= bytes_.size() - at_);
        field.bytes = bytes_.subspan(at_, static_cast<std::size_t>(size));
        at_ += static_cast<std::size_t>(size);
        return true;
      }
      case 5:
        field.value = fixed<std::uint32_t>();
        return true;
      default:
        check(false);
        return false;
    }
  }

 private:
  void check(bool condition) const {
    KVSCOPE_CHECK(condition, ErrorCode::corrupt_file,
                  fmt::format("the SentencePiece model is damaged {} bytes into a message", at_),
                  where_, "download tokenizer.model again");
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      check(at_ < bytes_.size());
      const std::uint8_t byte = bytes_[at_++];
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) {
        return value;
      }
    }
    check(false);
    return 0;
  }
  template <typename T>
  T fixed() {
    check(bytes_.size() - at_ >= sizeof(T));
    T value{};
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  Bytes bytes_;
  const std::string& where_;
  std::size_t at_ = 0;
};

std::string text_of(Bytes bytes) {
  return {bytes.begin(), bytes.end()};
}

void read_piece(Bytes bytes, const std::string& where, SentencePieceTables& tables) {
  Message message(bytes, where);
  std::string text;
  float score = 0;
  std::int64_t type = 1;
  for (Field field; message.next(field);) {
    if (field.number == 1) {
      text = text_of(field.bytes);
    } else if (field.number == 2) {
      score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    } else if (field.number == 3) {
      type = static_cast<std::int64_t>(field.value);
    }
  }
  KVSCOPE_CHECK(type >= 1 && type <= 6, ErrorCode::corrupt_file,
                fmt::format("piece {} has type {}", tables.tokens.size(), type), where);
  const auto id = static_cast<std::int32_t>(tables.tokens.size());
  if (type == 2) {
    tables.unknown = id;
  } else if (type == 3 && text == "<s>") {
    tables.bos = id;
  } else if (type == 3 && text == "</s>") {
    tables.eos = id;
  }
  tables.tokens.push_back(std::move(text));
  tables.scores.push_back(static_cast<double>(score));
  tables.types.push_back(type);
}

void read_trainer(Bytes bytes, const std::string& where, SentencePieceTables& tables) {
  Message message(bytes, where);
  std::uint64_t model = 1;
  tables.byte_fallback = false;
  for (Field field; message.next(field);) {
    if (field.number == 3) {
      model = field.value;
    } else if (field.number == 24) {  // treat_whitespace_as_suffix
      KVSCOPE_CHECK(field.value == 0, ErrorCode::unsupported,
                    "'treat_whitespace_as_suffix' is not supported", where);
    } else if (field.number == 35) {
      tables.byte_fallback = field.value != 0;
    }
  }
  KVSCOPE_CHECK(model == 1 || model == 2, ErrorCode::unsupported,
                fmt::format("SentencePiece model type {} is not supported (1, unigram, and 2, BPE, "
                            "are)",
                            model),
                where, "pass token ids with --token-ids");
  tables.unigram = model == 1;
}

void read_normalizer(Bytes bytes, const std::string& where, SentencePieceTables& tables) {
  Message message(bytes, where);
  tables.prefix = SpacePrefix::every;
  tables.collapse_spaces = true;
  for (Field field; message.next(field);) {
    if (field.number == 2) {
      KVSCOPE_CHECK(field.bytes.empty(), ErrorCode::unsupported,
                    "'precompiled_charsmap': normalising text by a table is not supported", where,
                    "pass token ids with --token-ids");
    } else if (field.number == 3) {
      tables.prefix = field.value != 0 ? SpacePrefix::every : SpacePrefix::none;
    } else if (field.number == 4) {
      tables.collapse_spaces = field.value != 0;
    } else if (field.number == 5) {
      KVSCOPE_CHECK(field.value != 0, ErrorCode::unsupported,
                    "'escape_whitespaces' = false is not supported", where);
    }
  }
}

}  // namespace

SentencePieceTables read_sentencepiece_model(Bytes bytes, const std::string& where) {
  SentencePieceTables tables;
  tables.where = where;
  tables.unigram = true;
  tables.byte_fallback = false;
  tables.collapse_spaces = true;
  Message model(bytes, where);
  for (Field field; model.next(field);) {
    if (field.number == 1) {
      read_piece(field.bytes, where, tables);
    } else if (field.number == 2) {
      read_trainer(field.bytes, where, tables);
    } else if (field.number == 3) {
      read_normalizer(field.bytes, where, tables);
    }
  }
  KVSCOPE_CHECK(!tables.tokens.empty(), ErrorCode::corrupt_file,
                "the file holds no SentencePiece pieces", where, "give a tokenizer.model file");
  split_added(tables);
  return tables;
}

}  // namespace kvscope
