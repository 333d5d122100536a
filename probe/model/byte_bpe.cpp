#include "byte_bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "kvscope/core/error.h"
#include "nfc.h"
#include "pre_tokenizer.h"

namespace kvscope {
namespace {

std::string utf8(unsigned point) {
  if (point < 0x80) {
    return {static_cast<char>(point)};
  }
  return {static_cast<char>(0xC0 | (point >> 6)), static_cast<char>(0x80 | (point & 0x3F))};
}

/// GPT-2's printable alphabet: bytes that print stand for themselves, the rest follow from U+0100.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool prints =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    alphabet[byte] = utf8(prints ? byte : next++);
  }
  return alphabet;
}

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

class ByteBpe final : public Tokenizer {
 public:
  explicit ByteBpe(ByteBpeTables tables);

  int vocabulary() const override { return static_cast<int>(pieces_.size()); }
  std::vector<std::int32_t> encode(std::string_view text, bool parse_special,
                                   bool add_bos) const override;
  std::string piece(std::int32_t id) const override {
    return id >= 0 && id < vocabulary() ? pieces_[static_cast<std::size_t>(id)] : std::string();
  }
  std::int32_t bos() const override { return tables_.bos; }
  std::int32_t eos() const override { return tables_.eos; }
  bool is_special(std::int32_t id) const override { return special_.count(id) > 0; }
  bool is_end_of_generation(std::int32_t id) const override {
    return std::find(tables_.ends.begin(), tables_.ends.end(), id) != tables_.ends.end();
  }
  const std::string& chat_template() const override { return tables_.chat_template; }

 private:
  struct Merge {
    int rank;
    std::int32_t result;
  };

  std::string bytes_of(const std::string& token) const;
  void read_merges();
  void encode_plain(std::string_view text, std::vector<std::int32_t>& ids) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const;

  ByteBpeTables tables_;
  AddedTokens added_;
  std::unordered_set<std::int32_t> special_;
  PreTokenizer pre_tokenizer_;
  std::array<std::string, 256> alphabet_ = byte_alphabet();
  std::unordered_map<std::string, std::int32_t> ids_;       ///< token text -> id
  std::unordered_map<std::string, std::int32_t> word_ids_;  ///< bytes of ordinary tokens -> id
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::vector<std::string> pieces_;
};

ByteBpe::ByteBpe(ByteBpeTables tables)
    : tables_(std::move(tables)),
      added_(tables_.added.empty() ? added_by_type(tables_.tokens, tables_.types) : tables_.added),
      pre_tokenizer_(tables_.patterns.empty()
                         ? PreTokenizer(tables_.pre_tokenizer, tables_.where)
                         : PreTokenizer(tables_.patterns, tables_.ignores_merges, tables_.where)) {
  KVSCOPE_CHECK(!tables_.tokens.empty(), ErrorCode::corrupt_file, "the vocabulary is empty",
                tables_.where);
  std::unordered_set<std::int32_t> added;
  for (const AddedToken& token : added_.all()) {
    added.insert(token.id);
    if (token.special) {
      special_.insert(token.id);
    }
  }
  for (std::size_t token = 0; token < tables_.tokens.size(); ++token) {
    const auto id = static_cast<std::int32_t>(token);
    const std::string& text = tables_.tokens[token];
    ids_.emplace(text, id);
    if (added.count(id) > 0) {
      pieces_.push_back(text);
    } else {
      pieces_.push_back(bytes_of(text));
      word_ids_.emplace(pieces_.back(), id);
    }
    if (id == tables_.eos || ends_generation(text)) {
      tables_.ends.push_back(id);
    }
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto found = ids_.find(alphabet_[byte]);
    byte_ids_[byte] = found == ids_.end() ? -1 : found->second;
  }
  read_merges();
}

std::string ByteBpe::bytes_of(const std::string& token) const {
  static const std::unordered_map<std::string, char> inverse = [] {
    std::unordered_map<std::string, char> map;
    const auto alphabet = byte_alphabet();
    for (std::size_t byte = 0; byte < 256; ++byte) {
      map.emplace(alphabet[byte], static_cast<char>(byte));
    }
    return map;
  }();
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const auto lead = static_cast<unsigned char>(token[at]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    const std::string character = token.substr(at, length);
    const auto found = inverse.find(character);
    bytes += found == inverse.end() ? character : std::string(1, found->second);
    at += length;
  }
  return bytes;
}

void ByteBpe::read_merges() {
  for (std::size_t rank = 0; rank < tables_.merges.size(); ++rank) {
    const std::string& merge = tables_.merges[rank];
    const std::size_t space = merge.find(' ', 1);
    const auto left = ids_.find(merge.substr(0, space));
    const auto right = space == std::string::npos ? ids_.end() : ids_.find(merge.substr(space + 1));
    KVSCOPE_CHECK(left != ids_.end() && right != ids_.end(), ErrorCode::corrupt_file,
                  fmt::format("merge {} ('{}') joins unknown tokens", rank, merge), tables_.where);
    const auto result = ids_.find(left->first + right->first);
    KVSCOPE_CHECK(result != ids_.end(), ErrorCode::corrupt_file,
                  fmt::format("merge {} ('{}') makes an unknown token", rank, merge),
                  tables_.where);
    merges_.emplace(pair_key(left->second, right->second),
                    Merge{static_cast<int>(rank), result->second});
  }
}

std::vector<std::int32_t> ByteBpe::encode(std::string_view text, bool parse_special,
                                          bool add_bos) const {
  std::vector<std::int32_t> ids;
  if (add_bos && tables_.add_bos && tables_.bos >= 0) {
    ids.push_back(tables_.bos);
  }
  for (const AddedTokens::Part& part : added_.split(text, parse_special)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else {
      encode_plain(part.text, ids);
    }
  }
  return ids;
}

void ByteBpe::encode_plain(std::string_view text, std::vector<std::int32_t>& ids) const {
  if (!text.empty()) {
    const std::string normal = tables_.nfc ? nfc(text) : std::string();
    for (const std::string_view word : pre_tokenizer_.split(tables_.nfc ? normal : text)) {
      encode_word(word, ids);
    }
  }
}

void ByteBpe::encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (pre_tokenizer_.ignores_merges()) {
    const auto whole = word_ids_.find(std::string(word));
    if (whole != word_ids_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  struct Symbol {
    std::int32_t id;
    int previous;
    int next;
  };
  struct Candidate {
    int rank;
    int left;
    std::int32_t left_id;
    std::int32_t right_id;
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  std::vector<Symbol> symbols;
  for (const char character : word) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(character)];
    if (id >= 0) {  // a vocabulary without this byte cannot say it
      const int at = static_cast<int>(symbols.size());
      symbols.push_back({id, at - 1, at + 1});
    }
  }
  const int count = static_cast<int>(symbols.size());
  std::priority_queue<Candidate> queue;
  const auto offer = [&](int left) {
    const Symbol& symbol = symbols[static_cast<std::size_t>(left)];
    if (symbol.next >= count) {
      return;
    }
    const std::int32_t right_id = symbols[static_cast<std::size_t>(symbol.next)].id;
    const auto merge = merges_.find(pair_key(symbol.id, right_id));
    if (merge != merges_.end()) {
      queue.push({merge->second.rank, left, symbol.id, right_id});
    }
  };
  for (int left = 0; left + 1 < count; ++left) {
    offer(left);
  }
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[static_cast<std::size_t>(best.left)];
    if (left.id != best.left_id || left.next >= count ||
        symbols[static_cast<std::size_t>(left.next)].id != best.right_id) {
      continue;  // one side has been merged meanwhile
    }
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    left.id = merges_.at(pair_key(best.left_id, best.right_id)).result;
    right.id = -1;
    left.next = right.next;
    if (left.next < count) {
      symbols[static_cast<std::size_t>(left.next)].previous = best.left;
    }
    offer(best.left);
    if (left.previous >= 0) {
      offer(left.previous);
    }
  }
  for (int at = 0; at < count; at = symbols[static_cast<std::size_t>(at)].next) {
    ids.push_back(symbols[static_cast<std::size_t>(at)].id);
  }
}

}  // namespace

std::shared_ptr<const Tokenizer> make_byte_bpe(ByteBpeTables tables) {
  return std::make_shared<ByteBpe>(std::move(tables));
}

}  // namespace kvscope
