#include "kvscope/model/tokenizer.h"

#include <algorithm>

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

}  // namespace

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
