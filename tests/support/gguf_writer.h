#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvscope::test {

/// Builds GGUF bytes (version 3), for models and for hostile files.
class GgufWriter {
 public:
  void text(const std::string& key, const std::string& value);
  void integer(const std::string& key, std::uint32_t value);
  void real(const std::string& key, float value);
  void flag(const std::string& key, bool value);
  void texts(const std::string& key, const std::vector<std::string>& values);
  void integers(const std::string& key, const std::vector<std::int32_t>& values);
  /// `shape` in torch order; `type` is the GGUF type id of `bytes`.
  void tensor(const std::string& name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
              const std::string& bytes);
  std::string bytes() const;

 private:
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> shape;
    std::uint32_t type;
    std::string bytes;
  };
  std::string metadata_;
  std::uint64_t keys_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace kvscope::test
