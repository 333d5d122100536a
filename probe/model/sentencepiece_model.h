#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "sentencepiece.h"

namespace kvscope {

/// The tables in a SentencePiece model file (tokenizer.model, a protocol buffer). Every length is
/// checked before it is used. Throws Error{corrupt_file} with the byte offset,
/// Error{unsupported} for word and character models and for normalisation by a table.
SentencePieceTables read_sentencepiece_model(std::span<const std::uint8_t> bytes,
                                             const std::string& where);

}  // namespace kvscope
