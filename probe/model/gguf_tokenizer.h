#pragma once

#include <memory>

#include "kvscope/model/tokenizer.h"

namespace kvscope {

class GgufFile;

/// The tokenizer in a GGUF file's metadata (byte-level BPE, SentencePiece). Throws
/// Error{unsupported} naming an unknown model or pre-tokenizer, Error{corrupt_file} if it is
/// incomplete or disagrees with the embedding.
std::shared_ptr<const Tokenizer> read_gguf_tokenizer(const GgufFile& file, int vocabulary);

}  // namespace kvscope
