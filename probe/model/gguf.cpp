#include "gguf.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <type_traits>

#include "kvscope/core/error.h"
#include "kvscope/model/block_type.h"

namespace kvscope {
namespace {

constexpr std::uint64_t longest_text = std::uint64_t{1} << 30;

/// Reads forward through the file; every step is checked against its end.
class Cursor {
 public:
  Cursor(std::span<const std::uint8_t> bytes, const std::string& path)
      : bytes_(bytes), path_(path) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t left() const { return bytes_.size() - position_; }

  [[noreturn]] void fail(const std::string& what, ErrorCode code = ErrorCode::corrupt_file) const {
    throw Error(code, what, fmt::format("{}, byte {}", path_, position_),
                "download the file again, or convert the model anew");
  }

  template <typename T>
  T number() {
    if (left() < sizeof(T)) {
      fail("the file ends in the middle of its header");
    }
    T value{};
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  std::string text() {
    const auto length = number<std::uint64_t>();
    if (length > left() || length > longest_text) {
      fail(fmt::format("a text claims {} bytes, {} are left", length, left()));
    }
    std::string value(reinterpret_cast<const char*>(bytes_.data()) + position_,
                      static_cast<std::size_t>(length));
    position_ += length;
    return value;
  }

 private:
  std::span<const std::uint8_t> bytes_;
  const std::string& path_;
  std::uint64_t position_ = 0;
};

enum ValueType : std::uint32_t {
  type_u8,
  type_i8,
  type_u16,
  type_i16,
  type_u32,
  type_i32,
  type_f32,
  type_bool,
  type_text,
  type_array,
  type_u64,
  type_i64,
  type_f64
};

std::int64_t read_integer(Cursor& cursor, std::uint32_t type) {
  switch (type) {
    case type_u8:
      return cursor.number<std::uint8_t>();
    case type_i8:
      return cursor.number<std::int8_t>();
    case type_u16:
      return cursor.number<std::uint16_t>();
    case type_i16:
      return cursor.number<std::int16_t>();
    case type_u32:
      return cursor.number<std::uint32_t>();
    case type_i32:
      return cursor.number<std::int32_t>();
    case type_bool:
      return cursor.number<std::uint8_t>() != 0 ? 1 : 0;
    case type_u64:
      return static_cast<std::int64_t>(cursor.number<std::uint64_t>());
    default:
      return cursor.number<std::int64_t>();
  }
}

bool is_integer(std::uint32_t type) {
  return type <= type_i32 || type == type_u64 || type == type_i64;
}

std::size_t smallest_size(std::uint32_t type) {
  constexpr std::size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
  return sizes[type];
}

GgufValue read_array(Cursor& cursor) {
  const auto type = cursor.number<std::uint32_t>();
  const auto count = cursor.number<std::uint64_t>();
  if (type == type_array || type > type_f64) {
    cursor.fail(type == type_array ? "an array holds arrays"
                                   : fmt::format("unknown value type {}", type));
  }
  if (count > cursor.left() / smallest_size(type)) {
    cursor.fail(
        fmt::format("an array claims {} elements, {} bytes are left", count, cursor.left()));
  }
  if (type == type_text) {
    std::vector<std::string> values;
    values.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t element = 0; element < count; ++element) {
      values.push_back(cursor.text());
    }
    return values;
  }
  if (type == type_f32 || type == type_f64) {
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) {
      value =
          type == type_f32 ? static_cast<double>(cursor.number<float>()) : cursor.number<double>();
    }
    return values;
  }
  std::vector<std::int64_t> values(static_cast<std::size_t>(count));
  for (std::int64_t& value : values) {
    value = read_integer(cursor, type);
  }
  return values;
}

GgufValue read_value(Cursor& cursor) {
  const auto type = cursor.number<std::uint32_t>();
  if (is_integer(type)) {
    return read_integer(cursor, type);
  }
  switch (type) {
    case type_f32:
      return static_cast<double>(cursor.number<float>());
    case type_f64:
      return cursor.number<double>();
    case type_bool:
      return read_integer(cursor, type) != 0;
    case type_text:
      return cursor.text();
    case type_array:
      return read_array(cursor);
    default:
      cursor.fail(fmt::format("unknown value type {}", type));
  }
}

void check_magic(Cursor& cursor, std::span<const std::uint8_t> bytes, const std::string& path) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()),
                              std::min<std::size_t>(bytes.size(), 32));
  KVSCOPE_CHECK(!head.starts_with("version https://git-lfs"), ErrorCode::corrupt_file,
                "this is a Git LFS pointer, not the model", path, "download the real file");
  KVSCOPE_CHECK(!head.starts_with("<!") && !head.starts_with("<html"), ErrorCode::corrupt_file,
                "this is a web page, not a model", path, "download the real file");
  KVSCOPE_CHECK(head.starts_with("GGUF"), ErrorCode::corrupt_file,
                bytes.empty() ? "the file is empty" : "this is not a GGUF file", path,
                "give a .gguf model");
  cursor.number<std::uint32_t>();
  const auto version = cursor.number<std::uint32_t>();
  if ((version & 0xFFFF) == 0 && version != 0) {
    cursor.fail("the file has the byte order of another machine", ErrorCode::unsupported);
  }
  if (version != 2 && version != 3) {
    cursor.fail(fmt::format("GGUF version {} is not supported (2 and 3 are)", version),
                ErrorCode::unsupported);
  }
}

GgufTensor read_tensor_info(Cursor& cursor) {
  GgufTensor tensor;
  tensor.name = cursor.text();
  if (tensor.name.empty() || tensor.name.size() >= 64) {
    cursor.fail("a tensor's name is empty or longer than 63 bytes");
  }
  const auto dimensions = cursor.number<std::uint32_t>();
  if (dimensions == 0 || dimensions > 4) {
    cursor.fail(fmt::format("tensor '{}' has {} dimensions", tensor.name, dimensions));
  }
  tensor.elements = 1;
  for (std::uint32_t axis = 0; axis < dimensions; ++axis) {
    const auto size = cursor.number<std::uint64_t>();
    if (size == 0 || size > (std::uint64_t{1} << 40) ||
        tensor.elements > (std::int64_t{1} << 46) / static_cast<std::int64_t>(size)) {
      cursor.fail(fmt::format("tensor '{}' claims an impossible size", tensor.name));
    }
    tensor.elements *= static_cast<std::int64_t>(size);
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
  }
  tensor.type = cursor.number<std::uint32_t>();
  tensor.offset = cursor.number<std::uint64_t>();
  return tensor;
}

/// Checks that tensors follow one another without overlap and end inside the file.
void place_tensors(std::vector<GgufTensor>& tensors, std::uint64_t start, std::uint64_t alignment,
                   std::uint64_t file_size, const std::string& path) {
  std::uint64_t expected = 0;
  for (GgufTensor& tensor : tensors) {
    const BlockType* block = block_type(tensor.type);
    KVSCOPE_CHECK(block != nullptr, ErrorCode::unsupported,
                  fmt::format("tensor '{}' has block type {}, which is not supported", tensor.name,
                              tensor.type),
                  path, "convert the model to F16, Q8_0 or a K-quant");
    KVSCOPE_CHECK(tensor.shape.back() % block->elements == 0, ErrorCode::corrupt_file,
                  fmt::format("tensor '{}': rows of {} are no multiple of {}'s blocks of {}",
                              tensor.name, tensor.shape.back(), block->name, block->elements),
                  path);
    KVSCOPE_CHECK(tensor.offset == expected, ErrorCode::corrupt_file,
                  fmt::format("tensor '{}' starts at {} where {} is its place", tensor.name,
                              tensor.offset, expected),
                  path, "download the file again");
    const auto bytes = static_cast<std::uint64_t>(tensor.elements / block->elements) *
                       static_cast<std::uint64_t>(block->bytes);
    KVSCOPE_CHECK(start <= file_size && tensor.offset <= file_size - start &&
                      bytes <= file_size - start - tensor.offset,
                  ErrorCode::corrupt_file,
                  fmt::format("the file is truncated: tensor '{}' ends at byte {}, the file at {}",
                              tensor.name, start + tensor.offset + bytes, file_size),
                  path, "download the file again");
    expected = (tensor.offset + bytes + alignment - 1) / alignment * alignment;
    tensor.offset += start;
  }
}

template <typename T>
const T& typed(const GgufFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  KVSCOPE_CHECK(found != file.metadata().end() && std::holds_alternative<T>(found->second),
                ErrorCode::corrupt_file,
                fmt::format("metadata key '{}' is {}", key,
                            found == file.metadata().end() ? "missing" : "of another kind"),
                file.path(), "convert the model anew");
  return std::get<T>(found->second);
}

}  // namespace

GgufFile::GgufFile(const std::string& path)
    : path_(path), mapping_(std::make_unique<MappedFile>(path)) {
  const auto bytes = mapping_->bytes();
  Cursor cursor(bytes, path_);
  check_magic(cursor, bytes, path_);
  const auto tensor_count = cursor.number<std::uint64_t>();
  const auto key_count = cursor.number<std::uint64_t>();
  if (tensor_count > cursor.left() / 33 || key_count > cursor.left() / 14) {
    cursor.fail(fmt::format("{} tensors and {} keys do not fit into {} bytes", tensor_count,
                            key_count, cursor.left()));
  }
  for (std::uint64_t key = 0; key < key_count; ++key) {
    std::string name = cursor.text();
    GgufValue value = read_value(cursor);
    if (!metadata_.emplace(name, std::move(value)).second) {
      cursor.fail(fmt::format("metadata key '{}' stands twice", name));
    }
  }
  tensors_.reserve(static_cast<std::size_t>(tensor_count));
  for (std::uint64_t tensor = 0; tensor < tensor_count; ++tensor) {
    tensors_.push_back(read_tensor_info(cursor));
    if (!index_.emplace(tensors_.back().name, tensors_.size() - 1).second) {
      cursor.fail(fmt::format("tensor '{}' stands twice", tensors_.back().name));
    }
  }
  const std::int64_t alignment = integer("general.alignment", 32);
  KVSCOPE_CHECK(alignment > 0 && alignment <= (1 << 20) &&
                    std::has_single_bit(static_cast<std::uint64_t>(alignment)),
                ErrorCode::corrupt_file,
                fmt::format("general.alignment is {}, not a power of two", alignment), path_);
  const auto step = static_cast<std::uint64_t>(alignment);
  place_tensors(tensors_, (cursor.position() + step - 1) / step * step, step, bytes.size(), path_);
}

const GgufTensor* GgufFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const std::uint8_t* GgufFile::data(const GgufTensor& tensor) const {
  return mapping_->bytes().data() + tensor.offset;
}

std::int64_t GgufFile::integer(const std::string& key) const {
  return typed<std::int64_t>(*this, key);
}

std::int64_t GgufFile::integer(const std::string& key, std::int64_t otherwise) const {
  return metadata_.count(key) == 0 ? otherwise : integer(key);
}

double GgufFile::real(const std::string& key, double otherwise) const {
  return metadata_.count(key) == 0 ? otherwise : typed<double>(*this, key);
}

bool GgufFile::flag(const std::string& key, bool otherwise) const {
  return metadata_.count(key) == 0 ? otherwise : typed<bool>(*this, key);
}

std::string GgufFile::text(const std::string& key, const std::string& otherwise) const {
  return metadata_.count(key) == 0 ? otherwise : typed<std::string>(*this, key);
}

const std::vector<std::string>& GgufFile::texts(const std::string& key) const {
  return typed<std::vector<std::string>>(*this, key);
}

std::vector<std::int64_t> GgufFile::integers(const std::string& key) const {
  return metadata_.count(key) == 0 ? std::vector<std::int64_t>{}
                                   : typed<std::vector<std::int64_t>>(*this, key);
}

std::vector<double> GgufFile::reals(const std::string& key) const {
  return metadata_.count(key) == 0 ? std::vector<double>{} : typed<std::vector<double>>(*this, key);
}

}  // namespace kvscope
