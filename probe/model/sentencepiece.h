#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "added_tokens.h"
#include "kvscope/model/tokenizer.h"

namespace kvscope {

/// Where a space is put before the text, so that the first word looks like any other.
enum class SpacePrefix {
  none,
  first,         ///< before the text
  every,         ///< before the text and after each added token
  marked,        ///< as `every`, but not before text that begins with a space
  marked_first,  ///< as `first`, likewise
};

/// What a SentencePiece-like tokenizer is made of, whatever file it came from.
struct SentencePieceTables {
  std::string where;
  std::vector<std::string> tokens;  ///< spaces written as U+2581
  std::vector<double> scores;       ///< of each token; without merges, BPE joins by score
  std::vector<std::int64_t> types;  ///< 1 normal, 2 unknown, 3 control, 4 user, 5 unused, 6 byte
  std::vector<std::pair<std::string, std::string>> merges;  ///< by rank; empty = by score
  bool unigram = false;                                     ///< most likely split instead of BPE
  std::vector<AddedToken> added;                            ///< looked for in the text as it is
  std::vector<AddedToken> pieces;  ///< looked for once spaces are marks; with SentencePiece's own
                                   ///< files these are the user-defined pieces
  bool single_precision = true;    ///< unigram: sums in float, as SentencePiece has them
  SpacePrefix prefix = SpacePrefix::every;
  bool collapse_spaces = false;  ///< runs become one, those at the ends go
  bool byte_fallback = true;     ///< unknown characters become bytes where tokens for them exist
  bool fuse_unknown = true;      ///< neighbouring unknown characters are one token
  bool splits_words = false;     ///< nothing is joined across a space
  std::int32_t unknown = -1;
  std::int32_t bos = -1;
  std::int32_t eos = -1;
  std::vector<std::int32_t> ends;  ///< further tokens that end a reply
  bool add_bos = false;
  std::string chat_template;
};

/// Sorts control tokens into `added` and user-defined ones into `pieces`, by `types`, as
/// SentencePiece treats them.
void split_added(SentencePieceTables& tables);

/// Joins neighbours with the highest score (or lowest merge rank) first, leftmost on ties, as
/// SentencePiece does (Kudo and Richardson 2018, arXiv:1808.06226); or finds the most likely split
/// (Kudo 2018, arXiv:1804.10959). Throws Error{corrupt_file} for tables that contradict themselves.
std::shared_ptr<const Tokenizer> make_sentencepiece(SentencePieceTables tables);

}  // namespace kvscope
