#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "mapped_file.h"

namespace kvscope {

/// A metadata value. Integers of all widths become int64, floats double.
using GgufValue = std::variant<std::int64_t, double, bool, std::string, std::vector<std::int64_t>,
                               std::vector<double>, std::vector<std::string>>;

/// One tensor of the table; `shape` is in torch order (slowest axis first).
struct GgufTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::uint32_t type = 0;
  std::uint64_t offset = 0;  ///< from the start of the file, checked
  std::int64_t elements = 0;
};

/// Header, metadata and tensor table of a GGUF file, versions 2 and 3 (specs/probe.md 6.2). Nothing
/// is allocated on the word of the file: counts are checked against the bytes that are left. Throws
/// Error{io | corrupt_file | unsupported} with the byte offset.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find(const std::string& name) const;
  const std::uint8_t* data(const GgufTensor& tensor) const;
  void check_size() const { mapping_->check_size(); }
  void release() const { mapping_->release(); }

  /// Typed metadata. Throw Error{corrupt_file} naming the key if absent (without default) or of
  /// another kind.
  std::int64_t integer(const std::string& key) const;
  std::int64_t integer(const std::string& key, std::int64_t otherwise) const;
  double real(const std::string& key, double otherwise) const;
  bool flag(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key, const std::string& otherwise = {}) const;
  const std::vector<std::string>& texts(const std::string& key) const;
  std::vector<std::int64_t> integers(const std::string& key) const;
  std::vector<double> reals(const std::string& key) const;

 private:
  std::string path_;
  std::unique_ptr<MappedFile> mapping_;
  std::map<std::string, GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace kvscope
