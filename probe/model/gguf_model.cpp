#include "gguf_model.h"

#include <fmt/format.h>

#include <map>

#include "gguf.h"
#include "gguf_tokenizer.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

struct Show {
  std::string operator()(std::int64_t value) const { return fmt::format("{}", value); }
  std::string operator()(double value) const { return fmt::format("{:g}", value); }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(const std::string& value) const {
    std::string line = value.size() <= 60 ? value : value.substr(0, 57) + "...";
    for (char& character : line) {
      character = character == '\n' ? ' ' : character;
    }
    return line;
  }
  std::string operator()(const std::vector<std::int64_t>& v) const {
    return fmt::format("[{} integers]", v.size());
  }
  std::string operator()(const std::vector<double>& v) const {
    return fmt::format("[{} numbers]", v.size());
  }
  std::string operator()(const std::vector<std::string>& v) const {
    return fmt::format("[{} texts]", v.size());
  }
};

/// One GGUF file or all parts of one.
class GgufStore final : public TensorStore {
 public:
  explicit GgufStore(const std::string& path) {
    add(path);
    const std::int64_t parts = first().integer("split.count", 1);
    if (parts > 1) {
      add_parts(path, parts);
    }
  }

  const GgufFile& first() const { return *files_.front(); }
  const std::string& path() const override { return first().path(); }
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
    std::vector<std::string> lines;
    for (const auto& [key, value] : first().metadata()) {
      lines.push_back(fmt::format("{:<44} {}", key, std::visit(Show{}, value)));
    }
    return lines;
  }

 private:
  void add(const std::string& path) {
    files_.push_back(std::make_unique<GgufFile>(path));
    for (const GgufTensor& tensor : files_.back()->tensors()) {
      KVSCOPE_CHECK(index_.emplace(tensor.name, tensors_.size()).second, ErrorCode::corrupt_file,
                    fmt::format("tensor '{}' stands in two parts", tensor.name), path);
      tensors_.push_back({tensor.name, tensor.shape, tensor.elements, block_type(tensor.type),
                          files_.back()->data(tensor)});
    }
  }
  void add_parts(const std::string& path, std::int64_t parts);

  std::vector<std::unique_ptr<GgufFile>> files_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::size_t> index_;
};

void GgufStore::add_parts(const std::string& path, std::int64_t parts) {
  const std::int64_t number = first().integer("split.no", 0);
  const std::string ending = fmt::format("-{:05}-of-{:05}.gguf", number + 1, parts);
  KVSCOPE_CHECK(parts <= 4096 && path.ends_with(ending), ErrorCode::corrupt_file,
                fmt::format("this is part {} of {}, but its name does not end in {}", number + 1,
                            parts, ending),
                path, "give the parts back their names");
  KVSCOPE_CHECK(number == 0, ErrorCode::usage,
                fmt::format("this is part {} of {}", number + 1, parts), path,
                "name the first part; the others are found beside it");
  const std::string stem = path.substr(0, path.size() - ending.size());
  for (std::int64_t part = 1; part < parts; ++part) {
    const std::string name = fmt::format("{}-{:05}-of-{:05}.gguf", stem, part + 1, parts);
    add(name);
    KVSCOPE_CHECK(files_.back()->integer("split.no", -1) == part &&
                      files_.back()->integer("split.count", -1) == parts,
                  ErrorCode::corrupt_file,
                  fmt::format("this is not part {} of {}", part + 1, parts), name);
  }
  const std::int64_t promised =
      first().integer("split.tensors.count", static_cast<std::int64_t>(tensors_.size()));
  KVSCOPE_CHECK(promised == static_cast<std::int64_t>(tensors_.size()), ErrorCode::corrupt_file,
                fmt::format("the {} parts hold {} tensors, {} were promised", parts,
                            tensors_.size(), promised),
                path);
}

}  // namespace

std::unique_ptr<ModelFile> open_gguf_model(const std::string& path) {
  auto store = std::make_shared<GgufStore>(path);
  ModelConfig config = read_gguf_config(store->first(), *store);
  TensorLayout layout = gguf_layout(config, *store);
  const int vocabulary = config.shape.vocabulary;
  return make_tensor_model(store, std::move(config), std::move(layout), [store, vocabulary] {
    return read_gguf_tokenizer(store->first(), vocabulary);
  });
}

}  // namespace kvscope
