#include "gguf_writer.h"

#include <cstring>

namespace kvscope::test {
namespace {

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& out, const std::string& text) {
  put<std::uint64_t>(out, text.size());
  out += text;
}

std::string padded(std::string bytes) {
  bytes.resize((bytes.size() + 31) / 32 * 32, '\0');
  return bytes;
}

}  // namespace

void GgufWriter::text(const std::string& key, const std::string& value) {
  put_text(metadata_, key);
  put<std::uint32_t>(metadata_, 8);
  put_text(metadata_, value);
  ++keys_;
}

void GgufWriter::integer(const std::string& key, std::uint32_t value) {
  put_text(metadata_, key);
  put<std::uint32_t>(metadata_, 4);
  put(metadata_, value);
  ++keys_;
}

void GgufWriter::real(const std::string& key, float value) {
  put_text(metadata_, key);
  put<std::uint32_t>(metadata_, 6);
  put(metadata_, value);
  ++keys_;
}

void GgufWriter::flag(const std::string& key, bool value) {
  put_text(metadata_, key);
  put<std::uint32_t>(metadata_, 7);
  put<std::uint8_t>(metadata_, value ? 1 : 0);
  ++keys_;
}

void GgufWriter::texts(const std::string& key, const std::vector<std::string>& values) {
  put_text(metadata_, key);
  put<std::uint32_t>(metadata_, 9);
  put<std::uint32_t>(metadata_, 8);
  put<std::uint64_t>(metadata_, values.size());
  for (const std::string& value : values) {
    put_text(metadata_, value);
  }
  ++keys_;
}

void GgufWriter::integers(const std::string& key, const std::vector<std::int32_t>& values) {
  put_text(metadata_, key);
  put<std::uint32_t>(metadata_, 9);
  put<std::uint32_t>(metadata_, 5);
  put<std::uint64_t>(metadata_, values.size());
  for (const std::int32_t value : values) {
    put(metadata_, value);
  }
  ++keys_;
}

void GgufWriter::tensor(const std::string& name, const std::vector<std::uint64_t>& shape,
                        std::uint32_t type, const std::string& bytes) {
  tensors_.push_back({name, shape, type, bytes});
}

std::string GgufWriter::bytes() const {
  std::string out = "GGUF";
  put<std::uint32_t>(out, 3);
  put<std::uint64_t>(out, tensors_.size());
  put(out, keys_);
  out += metadata_;
  std::uint64_t offset = 0;
  std::string data;
  for (const Tensor& tensor : tensors_) {
    put_text(out, tensor.name);
    put<std::uint32_t>(out, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) {
      put<std::uint64_t>(out, *size);
    }
    put(out, tensor.type);
    put(out, offset);
    const std::string bytes = padded(tensor.bytes);
    offset += bytes.size();
    data += bytes;
  }
  return padded(out) + data;
}

}  // namespace kvscope::test
