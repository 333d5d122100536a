#include "sentencepiece.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <queue>
#include <unordered_map>

#include "kvscope/core/error.h"
#include "unigram.h"

namespace kvscope {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581
constexpr std::int64_t type_normal = 1;
constexpr std::int64_t type_unknown = 2;
constexpr std::int64_t type_control = 3;
constexpr std::int64_t type_unused = 5;
constexpr std::int64_t type_byte = 6;

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  for (std::size_t at = 0; at < text.size();) {
    if (text.compare(at, from.size(), from) == 0) {
      out += to;
      at += from.size();
    } else {
      out += text[at++];
    }
  }
  return out;
}

/// The byte of "<0x0A>", or -1.
int byte_of(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') {
    return -1;
  }
  int value = 0;
  for (const char digit : {token[3], token[4]}) {
    const bool letter = digit >= 'A' && digit <= 'F';
    if (!letter && !(digit >= '0' && digit <= '9')) {
      return -1;
    }
    value = value * 16 + (letter ? digit - 'A' + 10 : digit - '0');
  }
  return value;
}

/// Without leading spaces, runs of spaces as one.
std::string collapsed(std::string_view text) {
  std::string out;
  bool after_space = true;
  for (const char character : text) {
    if (character != ' ' || !after_space) {
      out += character;
    }
    after_space = character == ' ';
  }
  return out;
}

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

class SentencePiece final : public Tokenizer {
 public:
  explicit SentencePiece(SentencePieceTables tables);

  int vocabulary() const override { return static_cast<int>(tables_.tokens.size()); }
  std::vector<std::int32_t> encode(std::string_view text, bool parse_special,
                                   bool add_bos) const override;
  std::string piece(std::int32_t id) const override;
  std::int32_t bos() const override { return tables_.bos; }
  std::int32_t eos() const override { return tables_.eos; }
  bool is_special(std::int32_t id) const override {
    return type_of(id) == type_control || type_of(id) == type_unknown;
  }
  bool is_end_of_generation(std::int32_t id) const override {
    return id >= 0 && std::find(tables_.ends.begin(), tables_.ends.end(), id) != tables_.ends.end();
  }
  const std::string& chat_template() const override { return tables_.chat_template; }
  bool puts_space_first() const override { return tables_.prefix != SpacePrefix::none; }

 private:
  struct Symbol {
    std::size_t begin;
    std::size_t size;  ///< 0 = joined to its left neighbour
    std::int32_t id;
    int previous;
    int next;
  };
  struct Join {
    double order;  ///< lowest first
    std::int32_t id;
  };
  using Rejoined = std::unordered_map<std::string_view, std::size_t>;

  std::int64_t type_of(std::int32_t id) const {
    return id >= 0 && id < static_cast<std::int32_t>(tables_.types.size())
               ? tables_.types[static_cast<std::size_t>(id)]
               : type_normal;
  }
  std::int32_t id_of(std::string_view text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? -1 : found->second;
  }
  void read_merges();
  bool join(std::string_view text, const Symbol& left, const Symbol& right, Join& out) const;
  void encode_plain(std::string_view text, bool prefixed, std::vector<std::int32_t>& ids) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const;
  void encode_bpe(std::string_view text, std::vector<std::int32_t>& ids) const;
  void put(std::string_view symbol, std::int32_t id, const Rejoined& halves,
           std::vector<std::int32_t>& ids) const;
  void put_unknown(std::string_view symbol, std::vector<std::int32_t>& ids) const;

  SentencePieceTables tables_;
  AddedTokens added_;
  AddedTokens pieces_;
  std::unordered_map<std::string_view, std::int32_t> ids_;  ///< texts that pieces may have
  std::unordered_map<std::uint64_t, Join> merges_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::unique_ptr<UnigramSplitter> unigram_;
};

SentencePiece::SentencePiece(SentencePieceTables tables)
    : tables_(std::move(tables)), added_(tables_.added), pieces_(tables_.pieces) {
  KVSCOPE_CHECK(!tables_.tokens.empty(), ErrorCode::corrupt_file, "the vocabulary is empty",
                tables_.where);
  KVSCOPE_CHECK(
      !tables_.merges.empty() || tables_.scores.size() == tables_.tokens.size(),
      ErrorCode::corrupt_file,
      fmt::format("{} scores for {} tokens", tables_.scores.size(), tables_.tokens.size()),
      tables_.where);
  byte_ids_.fill(-1);
  for (std::size_t token = 0; token < tables_.tokens.size(); ++token) {
    const auto id = static_cast<std::int32_t>(token);
    const std::string& text = tables_.tokens[token];
    const std::int64_t type = type_of(id);
    const int byte = byte_of(text);
    if (byte >= 0 && (type == type_byte || tables_.types.empty())) {
      byte_ids_[static_cast<std::size_t>(byte)] = id;
    } else if (!tables_.merges.empty() ||  // joined by rank: what merges name is what there is
               (type != type_control && type != type_unknown && type != type_byte)) {
      ids_.emplace(text, id);
    }
    if (id == tables_.eos || ends_generation(text)) {
      tables_.ends.push_back(id);
    }
  }
  read_merges();
  if (tables_.unigram) {
    unigram_ = std::make_unique<UnigramSplitter>(ids_, tables_.scores, tables_.single_precision);
  }
}

void SentencePiece::read_merges() {
  for (std::size_t rank = 0; rank < tables_.merges.size(); ++rank) {
    const auto& [left, right] = tables_.merges[rank];
    const std::int32_t left_id = id_of(left);
    const std::int32_t right_id = id_of(right);
    const std::int32_t result = id_of(left + right);
    KVSCOPE_CHECK(left_id >= 0 && right_id >= 0 && result >= 0, ErrorCode::corrupt_file,
                  fmt::format("merge {} ('{}' and '{}') has unknown tokens", rank,
                              left.substr(0, 40), right.substr(0, 40)),
                  tables_.where);
    merges_.emplace(pair_key(left_id, right_id), Join{static_cast<double>(rank), result});
  }
}

std::string SentencePiece::piece(std::int32_t id) const {
  if (id < 0 || id >= vocabulary()) {
    return {};
  }
  const std::string& token = tables_.tokens[static_cast<std::size_t>(id)];
  const int byte = byte_of(token);
  if (byte >= 0 && byte_ids_[static_cast<std::size_t>(byte)] == id) {
    return std::string(1, static_cast<char>(byte));
  }
  return type_of(id) == type_control ? token : replaced(token, space_mark, " ");
}

std::vector<std::int32_t> SentencePiece::encode(std::string_view text, bool parse_special,
                                                bool add_bos) const {
  std::vector<std::int32_t> ids;
  if (add_bos && tables_.add_bos && tables_.bos >= 0) {
    ids.push_back(tables_.bos);
  }
  const bool repeated =
      tables_.prefix == SpacePrefix::every || tables_.prefix == SpacePrefix::marked;
  bool prefixed = tables_.prefix != SpacePrefix::none;
  for (const AddedTokens::Part& part : added_.split(text, parse_special)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      prefixed = repeated;
      continue;
    }
    encode_plain(part.text, prefixed, ids);
    prefixed = false;
  }
  return ids;
}

void SentencePiece::encode_plain(std::string_view text, bool prefixed,
                                 std::vector<std::int32_t>& ids) const {
  std::string marked =
      replaced(tables_.collapse_spaces ? collapsed(text) : std::string(text), " ", space_mark);
  while (tables_.collapse_spaces && marked.ends_with(space_mark)) {
    marked.resize(marked.size() - space_mark.size());
  }
  const bool unless_marked =
      tables_.prefix == SpacePrefix::marked || tables_.prefix == SpacePrefix::marked_first;
  if (prefixed && !marked.empty() && !(unless_marked && marked.starts_with(space_mark))) {
    marked.insert(0, space_mark);
  }
  for (const AddedTokens::Part& part : pieces_.split(marked, true)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    for (std::size_t begin = 0; begin < part.text.size();) {
      const std::size_t end =
          tables_.splits_words ? part.text.find(space_mark, begin + 1) : std::string_view::npos;
      encode_word(part.text.substr(begin, end - begin), ids);
      begin = std::min(end, part.text.size());
    }
  }
}

void SentencePiece::encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (unigram_ == nullptr) {
    encode_bpe(word, ids);
    return;
  }
  for (const auto& [symbol, id] : unigram_->split(word)) {
    if (id >= 0) {
      ids.push_back(id);
    } else {
      put_unknown(symbol, ids);
    }
  }
}

bool SentencePiece::join(std::string_view text, const Symbol& left, const Symbol& right,
                         Join& out) const {
  if (!tables_.merges.empty()) {
    const auto found =
        left.id < 0 || right.id < 0 ? merges_.end() : merges_.find(pair_key(left.id, right.id));
    if (found == merges_.end()) {
      return false;
    }
    out = found->second;
    return true;
  }
  const std::int32_t id = id_of(text.substr(left.begin, left.size + right.size));
  if (id < 0) {
    return false;
  }
  out = {-tables_.scores[static_cast<std::size_t>(id)], id};
  return true;
}

void SentencePiece::encode_bpe(std::string_view text, std::vector<std::int32_t>& ids) const {
  struct Candidate {
    Join join;
    int left;
    std::size_t size;  ///< of both sides; a change since means that one was joined meanwhile
    bool operator<(const Candidate& other) const {
      return join.order != other.join.order ? join.order > other.join.order : left > other.left;
    }
  };
  std::vector<Symbol> symbols;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_size(text, at);
    const int index = static_cast<int>(symbols.size());
    symbols.push_back({at, size, id_of(text.substr(at, size)), index - 1, index + 1});
    at += size;
  }
  const int count = static_cast<int>(symbols.size());
  std::priority_queue<Candidate> queue;
  Rejoined halves;  // unused pieces are taken apart again, at the seam they were joined at
  const auto offer = [&](int index) {
    const Symbol& left = symbols[static_cast<std::size_t>(index)];
    Join found{};
    if (left.next < count &&
        join(text, left, symbols[static_cast<std::size_t>(left.next)], found)) {
      const std::size_t size = left.size + symbols[static_cast<std::size_t>(left.next)].size;
      queue.push({found, index, size});
      if (type_of(found.id) == type_unused) {
        halves.emplace(text.substr(left.begin, size), left.size);
      }
    }
  };
  for (int index = 0; index + 1 < count; ++index) {
    offer(index);
  }
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[static_cast<std::size_t>(best.left)];
    if (left.size == 0 || left.next >= count ||
        left.size + symbols[static_cast<std::size_t>(left.next)].size != best.size) {
      continue;
    }
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    left.size = best.size;
    left.id = best.join.id;
    left.next = right.next;
    right.size = 0;
    if (left.next < count) {
      symbols[static_cast<std::size_t>(left.next)].previous = best.left;
    }
    offer(best.left);
    if (left.previous >= 0) {
      offer(left.previous);
    }
  }
  for (int index = 0; index < count; index = symbols[static_cast<std::size_t>(index)].next) {
    const Symbol& symbol = symbols[static_cast<std::size_t>(index)];
    put(text.substr(symbol.begin, symbol.size), symbol.id, halves, ids);
  }
}

void SentencePiece::put(std::string_view symbol, std::int32_t id, const Rejoined& halves,
                        std::vector<std::int32_t>& ids) const {
  if (id < 0) {
    put_unknown(symbol, ids);
    return;
  }
  const auto seam = type_of(id) == type_unused ? halves.find(symbol) : halves.end();
  if (seam == halves.end()) {
    ids.push_back(id);
    return;
  }
  for (const std::string_view half :
       {symbol.substr(0, seam->second), symbol.substr(seam->second)}) {
    put(half, id_of(half), halves, ids);
  }
}

void SentencePiece::put_unknown(std::string_view symbol, std::vector<std::int32_t>& ids) const {
  const bool bytes =
      tables_.byte_fallback && std::all_of(symbol.begin(), symbol.end(), [this](char character) {
        return byte_ids_[static_cast<unsigned char>(character)] >= 0;
      });
  if (bytes) {
    for (const char character : symbol) {
      ids.push_back(byte_ids_[static_cast<unsigned char>(character)]);
    }
  } else if (tables_.unknown >= 0 &&
             (!tables_.fuse_unknown || ids.empty() || ids.back() != tables_.unknown)) {
    ids.push_back(tables_.unknown);
  }
}

}  // namespace

void split_added(SentencePieceTables& tables) {
  tables.added = added_by_type(tables.tokens, tables.types);
  std::erase_if(tables.added, [&](const AddedToken& token) {
    if (!token.special) {
      tables.pieces.push_back(token);
      tables.pieces.back().text = replaced(token.text, " ", space_mark);
    }
    return !token.special;
  });
}

std::shared_ptr<const Tokenizer> make_sentencepiece(SentencePieceTables tables) {
  return std::make_shared<SentencePiece>(std::move(tables));
}

}  // namespace kvscope
