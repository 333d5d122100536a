#include "safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "checked_json.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

using nlohmann::json;

constexpr std::uint64_t longest_header = 100'000'000;
constexpr std::size_t most_tensors = 1'000'000;

struct Entry {
  StoredTensor tensor;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

std::uint64_t natural(const json& number, const std::string& name, const std::string& where) {
  KVSCOPE_CHECK(number.is_number_unsigned(), ErrorCode::corrupt_file,
                fmt::format("tensor '{}' has a size or offset that is no natural number", name),
                where);
  return number.get<std::uint64_t>();
}

Entry read_entry(const std::string& name, const json& description, std::uint64_t data_bytes,
                 const std::string& where) {
  const JsonFields fields(description, where, name + ".");
  Entry entry;
  entry.tensor.name = name;
  const std::string dtype = fields.text("dtype", "");
  entry.tensor.block = safetensors_type(dtype);
  KVSCOPE_CHECK(
      entry.tensor.block != nullptr, ErrorCode::unsupported,
      fmt::format("tensor '{}' has type '{}', which is not supported", name, dtype.substr(0, 20)),
      where, "known: F64, F32, F16, BF16, F8_E4M3, F8_E5M2, integers, BOOL");
  std::uint64_t elements = 1;
  const json& shape = fields.array("shape");
  KVSCOPE_CHECK(shape.size() <= 8, ErrorCode::corrupt_file,
                fmt::format("tensor '{}' has {} dimensions", name, shape.size()), where);
  for (const json& axis : shape) {
    const std::uint64_t size = natural(axis, name, where);
    KVSCOPE_CHECK(size == 0 || elements <= (std::uint64_t{1} << 46) / size, ErrorCode::corrupt_file,
                  fmt::format("tensor '{}' claims an impossible size", name), where);
    elements *= size;
    entry.tensor.shape.push_back(static_cast<std::int64_t>(size));
  }
  entry.tensor.elements = static_cast<std::int64_t>(elements);
  const json& offsets = fields.array("data_offsets");
  KVSCOPE_CHECK(offsets.size() == 2, ErrorCode::corrupt_file,
                fmt::format("tensor '{}' has {} data_offsets", name, offsets.size()), where);
  entry.begin = natural(offsets[0], name, where);
  entry.end = natural(offsets[1], name, where);
  const std::uint64_t bytes = elements * static_cast<std::uint64_t>(entry.tensor.block->bytes);
  KVSCOPE_CHECK(
      entry.begin <= entry.end && entry.end <= data_bytes && entry.end - entry.begin == bytes,
      ErrorCode::corrupt_file,
      fmt::format("tensor '{}' needs {} bytes, its offsets are {} to {} of {}", name, bytes,
                  entry.begin, entry.end, data_bytes),
      where, "download the file again");
  return entry;
}

/// The header as JSON; every length is checked before it is used.
json read_header(std::span<const std::uint8_t> bytes, const std::string& path,
                 std::uint64_t& data_start) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()),
                              std::min<std::size_t>(bytes.size(), 32));
  KVSCOPE_CHECK(!head.starts_with("version https://git-lfs"), ErrorCode::corrupt_file,
                "this is a Git LFS pointer, not the model", path, "download the real file");
  KVSCOPE_CHECK(!head.starts_with("<!") && !head.starts_with("<html"), ErrorCode::corrupt_file,
                "this is a web page, not a model", path, "download the real file");
  KVSCOPE_CHECK(bytes.size() >= 8, ErrorCode::corrupt_file,
                fmt::format("{} bytes are too few for a safetensors file", bytes.size()), path,
                "download the file again");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  KVSCOPE_CHECK(length <= longest_header && length <= bytes.size() - 8, ErrorCode::corrupt_file,
                fmt::format("the header claims {} bytes, {} are left", length, bytes.size() - 8),
                path, "download the file again");
  KVSCOPE_CHECK(length > 1 && bytes[8] == '{', ErrorCode::corrupt_file,
                "the header is no JSON object", path, "give a .safetensors file");
  data_start = 8 + length;
  return parse_json(
      {reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(length)}, path, 8);
}

class SafetensorsStore final : public TensorStore {
 public:
  SafetensorsStore(std::string path, std::vector<std::unique_ptr<SafetensorsFile>> files)
      : path_(std::move(path)), files_(std::move(files)) {
    for (const auto& file : files_) {
      for (const StoredTensor& tensor : file->tensors()) {
        KVSCOPE_CHECK(index_.emplace(tensor.name, 0).second, ErrorCode::corrupt_file,
                      fmt::format("tensor '{}' stands in two shards", tensor.name), file->path());
        tensors_.push_back(tensor);
      }
    }
    std::sort(tensors_.begin(), tensors_.end(),
              [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
    for (std::size_t tensor = 0; tensor < tensors_.size(); ++tensor) {
      index_[tensors_[tensor].name] = tensor;
    }
  }
  const std::string& path() const override { return path_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* find(const std::string& name) const override {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  void check_size() const override {
    for (const auto& file : files_) {
      file->check_size();
    }
  }
  void release() const override {
    for (const auto& file : files_) {
      file->release();
    }
  }
  std::vector<std::string> describe_metadata() const override {
    return {fmt::format("{:<44} {}", "safetensors files", files_.size())};
  }

 private:
  std::string path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::size_t> index_;
};

/// Shard names of the index with the tensors each must hold; nothing outside the folder.
std::map<std::string, std::vector<std::string>> read_index(const std::string& path) {
  const json index = read_json_file(path, static_cast<std::int64_t>(longest_header));
  const JsonFields fields(index, path);
  std::map<std::string, std::vector<std::string>> shards;
  const json& map = fields.value("weight_map");
  KVSCOPE_CHECK(map.is_object(), ErrorCode::corrupt_file, "field 'weight_map' is no object", path);
  for (const auto& [tensor, shard] : map.items()) {
    KVSCOPE_CHECK(shard.is_string(), ErrorCode::corrupt_file,
                  fmt::format("the shard of tensor '{}' is no name", tensor), path);
    const std::string name = shard.get<std::string>();
    KVSCOPE_CHECK(
        !name.empty() && name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
            name != "." && name != "..",
        ErrorCode::corrupt_file,
        fmt::format("shard '{}' of tensor '{}' lies outside the folder", name, tensor), path);
    shards[name].push_back(tensor);
  }
  KVSCOPE_CHECK(!shards.empty(), ErrorCode::corrupt_file, "the index lists no tensor", path);
  return shards;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path)
    : path_(path), mapping_(std::make_unique<MappedFile>(path)) {
  const auto bytes = mapping_->bytes();
  std::uint64_t data_start = 0;
  const json header = read_header(bytes, path_, data_start);
  const std::uint64_t data_bytes = bytes.size() - data_start;
  KVSCOPE_CHECK(header.size() <= most_tensors, ErrorCode::corrupt_file,
                fmt::format("{} tensors are more than {}", header.size(), most_tensors), path_);
  std::vector<Entry> entries;
  for (const auto& [name, description] : header.items()) {
    if (name != "__metadata__") {
      entries.push_back(read_entry(name, description, data_bytes, path_));
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::uint64_t expected = 0;
  for (Entry& entry : entries) {
    KVSCOPE_CHECK(entry.begin == expected, ErrorCode::corrupt_file,
                  fmt::format("tensor '{}' begins at {} where {} is its place", entry.tensor.name,
                              entry.begin, expected),
                  path_, "download the file again");
    expected = entry.end;
    entry.tensor.data = bytes.data() + data_start + entry.begin;
    tensors_.push_back(std::move(entry.tensor));
  }
  KVSCOPE_CHECK(
      expected == data_bytes, ErrorCode::corrupt_file,
      fmt::format("the tensors end at byte {} of the data, the file at {}", expected, data_bytes),
      path_, "download the file again");
}

std::shared_ptr<const TensorStore> open_safetensors(const std::string& folder) {
  namespace fs = std::filesystem;
  const auto beside = [&](const std::string& name) { return (fs::path(folder) / name).string(); };
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  const std::string index = beside("model.safetensors.index.json");
  std::error_code failure;
  if (!fs::exists(index, failure)) {
    const std::string single = beside("model.safetensors");
    KVSCOPE_CHECK(fs::exists(single, failure), ErrorCode::io,
                  "the folder holds neither model.safetensors nor its index", folder,
                  "give a folder with config.json and safetensors weights");
    files.push_back(std::make_unique<SafetensorsFile>(single));
    return std::make_shared<SafetensorsStore>(folder, std::move(files));
  }
  const auto shards = read_index(index);
  std::vector<std::string> missing;
  for (const auto& [name, tensors] : shards) {
    if (!fs::exists(beside(name), failure)) {
      missing.push_back(name);
    }
  }
  KVSCOPE_CHECK(missing.empty(), ErrorCode::io,
                fmt::format("shards are missing: {}", fmt::join(missing, ", ")), folder,
                "download them");
  for (const auto& [name, tensors] : shards) {
    files.push_back(std::make_unique<SafetensorsFile>(beside(name)));
    std::set<std::string> held;
    for (const StoredTensor& tensor : files.back()->tensors()) {
      held.insert(tensor.name);
    }
    for (const std::string& tensor : tensors) {
      KVSCOPE_CHECK(held.count(tensor) > 0, ErrorCode::corrupt_file,
                    fmt::format("the index has tensor '{}' in a shard that lacks it", tensor),
                    beside(name), "download index and shards again");
    }
  }
  return std::make_shared<SafetensorsStore>(folder, std::move(files));
}

}  // namespace kvscope
