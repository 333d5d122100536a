#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace kvscope {

/// A whole file mapped read-only and privately. Throws Error{io}.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::uint8_t> bytes() const { return {data_, size_}; }
  /// Throws Error{io} if the file has become shorter since: reading on would be fatal.
  void check_size() const;
  /// Gives the pages read so far back to the system; they are read again when next asked for.
  void release() const;

 private:
  std::string path_;
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace kvscope
