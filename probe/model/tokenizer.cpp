#include "kvscope/model/tokenizer.h"

#include <algorithm>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

/// Bytes at the end of `text` that may be the beginning of a character.
std::size_t unfinished(const std::string& text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) {
      continue;
    }
    const std::size_t size = byte < 0xC2   ? 1
                             : byte < 0xE0 ? 2
                             : byte < 0xF0 ? 3
                             : byte < 0xF5 ? 4
                                           : 1;
    return size > back ? back : 0;
  }
  return 0;
}

class NumberTokenizer final : public Tokenizer {
 public:
  explicit NumberTokenizer(int vocabulary) : vocabulary_(vocabulary) {}
  int vocabulary() const override { return vocabulary_; }
  std::vector<std::int32_t> encode(std::string_view, bool, bool) const override {
    throw Error(ErrorCode::missing_data, "the model has no tokenizer that can be read", "",
                "pass token ids with --token-ids");
  }
  std::string piece(std::int32_t id) const override {
    return id >= 0 && id < vocabulary_ ? "[" + std::to_string(id) + "]" : std::string();
  }
  std::int32_t bos() const override { return -1; }
  std::int32_t eos() const override { return -1; }
  bool is_special(std::int32_t) const override { return false; }
  bool is_end_of_generation(std::int32_t) const override { return false; }
  const std::string& chat_template() const override { return none_; }

 private:
  int vocabulary_;
  std::string none_;
};

}  // namespace

std::shared_ptr<const Tokenizer> number_tokenizer(int vocabulary) {
  return std::make_shared<NumberTokenizer>(vocabulary);
}

std::string Tokenizer::decode(const std::vector<std::int32_t>& ids) const {
  StreamDecoder decoder(*this);
  std::string text;
  for (const std::int32_t id : ids) {
    text += decoder.add(id);
  }
  return text + decoder.finish();
}

std::string StreamDecoder::add(std::int32_t id) {
  std::string piece = tokenizer_->piece(id);
  if (first_ && !tokenizer_->is_special(id)) {
    if (tokenizer_->puts_space_first() && piece.starts_with(' ')) {
      piece.erase(0, 1);
    }
    first_ = false;
  }
  held_ += piece;
  const std::size_t keep = unfinished(held_);
  std::string ready = held_.substr(0, held_.size() - keep);
  held_.erase(0, ready.size());
  return ready;
}

std::string StreamDecoder::finish() {
  std::string rest;
  rest.swap(held_);
  return rest;
}

}  // namespace kvscope
