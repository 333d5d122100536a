#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace kvscope::fuzz {

/// Each reads `bytes` as a file of its format and uses what it finds. An Error is a fine answer,
/// anything else (crash, hang, another exception) a bug.
void gguf(std::span<const std::uint8_t> bytes);
void safetensors(std::span<const std::uint8_t> bytes);
void tokenizer_json(std::span<const std::uint8_t> bytes);
void tokenizer_model(std::span<const std::uint8_t> bytes);
/// A conversation and a chat template, one after the other: the message ends at the first NUL.
void chat_template(std::span<const std::uint8_t> bytes);
/// Reads `bytes` as a list of changes to one of our HDF5 files, and that file then.
void hdf5(std::span<const std::uint8_t> bytes);

/// A file in memory with these bytes, under a path that the readers can open and map.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const std::uint8_t> bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const;

 private:
  int descriptor_ = -1;
};

}  // namespace kvscope::fuzz
