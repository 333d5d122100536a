#include "fuzz_targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "checked_json.h"
#include "gguf.h"
#include "gguf_model.h"
#include "kvscope/core/error.h"
#include "kvscope/model/prompt.h"
#include "kvscope/model/tokenizer.h"
#include "safetensors.h"
#include "sentencepiece_model.h"
#include "tokenizer_json.h"

namespace kvscope::fuzz {
namespace {

/// Tensors larger than this are not dequantised: what fuzzing costs is time.
constexpr std::int64_t most_elements = 1 << 16;

void use(const StoredTensor& tensor) {
  if (tensor.elements <= most_elements) {
    std::vector<float> values(static_cast<std::size_t>(tensor.elements));
    tensor.block->dequantise(tensor.data, tensor.elements / tensor.block->elements, values.data());
  }
}

void use(const Tokenizer& tokenizer) {
  const auto ids =
      tokenizer.encode("The caf\xC3\xA9 <|im_start|> 1234\n\n  \xF0\x9F\x98\x80 \xFF", true);
  tokenizer.decode(ids);
  for (int id = -1; id < std::min(tokenizer.vocabulary(), 1000); ++id) {
    tokenizer.piece(id);
    tokenizer.is_end_of_generation(id);
  }
  build_prompt(tokenizer, {"some text", "a question", !tokenizer.chat_template().empty()});
}

template <typename Action>
void guarded(Action action) {
  try {
    action();
  } catch (const Error&) {
    // the reader said what is wrong
  }
}

}  // namespace

MemoryFile::MemoryFile(std::span<const std::uint8_t> bytes)
    : descriptor_(memfd_create("kvscope-fuzz", 0)) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t wrote = write(descriptor_, bytes.data() + done, bytes.size() - done);
    if (wrote <= 0) {
      throw Error(ErrorCode::io, "cannot write to memory");
    }
    done += static_cast<std::size_t>(wrote);
  }
}

MemoryFile::~MemoryFile() {
  close(descriptor_);
}

std::string MemoryFile::path() const {
  return "/proc/self/fd/" + std::to_string(descriptor_);
}

void gguf(std::span<const std::uint8_t> bytes) {
  const MemoryFile memory(bytes);
  guarded([&] {
    const GgufFile file(memory.path());
    for (const GgufTensor& tensor : file.tensors()) {
      use({tensor.name, tensor.shape, tensor.elements, block_type(tensor.type), file.data(tensor)});
    }
  });
  guarded([&] {
    const auto model = open_gguf_model(memory.path());
    model->describe();
    model->hash();
    use(*model->tokenizer());
  });
}

void safetensors(std::span<const std::uint8_t> bytes) {
  const MemoryFile memory(bytes);
  guarded([&] {
    const SafetensorsFile file(memory.path());
    for (const StoredTensor& tensor : file.tensors()) {
      use(tensor);
    }
  });
}

void tokenizer_json(std::span<const std::uint8_t> bytes) {
  guarded([&] {
    const auto json =
        parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "tokenizer.json");
    TokenizerSettings settings;
    settings.eos = "</s>";
    use(*read_tokenizer_json(json, settings, 5000, "tokenizer.json"));
  });
}

void tokenizer_model(std::span<const std::uint8_t> bytes) {
  guarded([&] { use(*make_sentencepiece(read_sentencepiece_model(bytes, "tokenizer.model"))); });
}

}  // namespace kvscope::fuzz
