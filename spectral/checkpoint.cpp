#include "checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <type_traits>

#include "kvscope/core/error.h"

namespace kvscope::spectral {
namespace {

constexpr std::string_view magic = "kvscope.spectrum.checkpoint 2\n";

/// One function lists the members; writing and reading both walk it.
template <typename Archive>
void visit(Archive& archive, FastSpectrum& fast) {
  archive(fast.trace, fast.square, fast.largest, fast.bound);
}
template <typename Archive>
void visit(Archive& archive, SpectrumMetrics& metrics) {
  archive(metrics.value, metrics.energy_rank);
}
template <typename Archive>
void visit(Archive& archive, MatrixSpectrum& m) {
  archive(m.status, m.message, m.rows, m.columns, m.layer, m.with_bias, m.heads, m.blocks,
          m.vectors, m.layer_metrics, m.head_metrics, m.layer_fast, m.heads_fast, m.top,
          m.storage_error, m.seconds);
}
template <typename Archive>
void visit(Archive& archive, LayerProducts& p) {
  archive(p.qk, p.ov, p.ov_eigenvalues, p.overlap, p.gram_qk, p.gram_qq, p.gram_kv, p.gram_kk,
          p.gram_vv);
}
template <typename Archive>
void visit(Archive& archive, LayerResult& result) {
  archive(result.matrices, result.products);
}

template <typename T>
concept Plain = std::is_arithmetic_v<T> || std::is_enum_v<T>;

class Writer {
 public:
  template <typename... T>
  void operator()(T&... values) {
    (put(values), ...);
  }
  std::string bytes;

 private:
  template <Plain T>
  void put(T& value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void put(std::string& text) {
    size(text.size());
    bytes += text;
  }
  template <typename T>
  void put(std::vector<T>& list) {
    size(list.size());
    std::for_each(list.begin(), list.end(), [this](T& value) { put(value); });
  }
  template <typename T, std::size_t n>
  void put(std::array<T, n>& list) {
    std::for_each(list.begin(), list.end(), [this](T& value) { put(value); });
  }
  template <typename T>
  requires(!Plain<T>) void put(T& value) { visit(*this, value); }
  void size(std::size_t count) {
    auto value = static_cast<std::uint64_t>(count);
    put(value);
  }
};

/// Reads what Writer wrote; `good` turns false at the first thing that does not fit.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  template <typename... T>
  void operator()(T&... values) {
    (get(values), ...);
  }
  bool good() const { return good_ && rest_.empty(); }

 private:
  template <Plain T>
  void get(T& value) {
    good_ = good_ && rest_.size() >= sizeof value;
    if (good_) {
      std::memcpy(&value, rest_.data(), sizeof value);
      rest_.remove_prefix(sizeof value);
    }
  }
  void get(std::string& text) {
    const std::size_t count = size(1);
    text = std::string(rest_.substr(0, count));
    rest_.remove_prefix(count);
  }
  template <typename T>
  void get(std::vector<T>& list) {
    list.resize(size(1));
    std::for_each(list.begin(), list.end(), [this](T& value) { get(value); });
  }
  template <typename T, std::size_t n>
  void get(std::array<T, n>& list) {
    std::for_each(list.begin(), list.end(), [this](T& value) { get(value); });
  }
  template <typename T>
  requires(!Plain<T>) void get(T& value) { visit(*this, value); }
  /// A count of things of at least `least` bytes each that can still follow; else 0.
  std::size_t size(std::size_t least) {
    std::uint64_t count = 0;
    get(count);
    good_ = good_ && count <= rest_.size() / least;
    return good_ ? static_cast<std::size_t>(count) : 0;
  }
  std::string_view rest_;
  bool good_ = true;
};

std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t state = 14695981039346656037u;  // FNV-1a
  for (const char byte : bytes) {
    state = (state ^ static_cast<std::uint8_t>(byte)) * 1099511628211u;
  }
  return state;
}

/// Before each record: which layer, how long, and the checksum of what follows.
struct RecordHeader {
  std::int64_t layer = 0;
  std::uint64_t bytes = 0;
  std::uint64_t sum = 0;
};

}  // namespace

Checkpoint::Checkpoint(std::string path, const std::string& key) : path_(std::move(path)) {
  if (path_.empty()) {
    return;
  }
  const std::int64_t sound = read(key);
  std::error_code failure;
  if (sound > 0) {
    std::filesystem::resize_file(path_, static_cast<std::uintmax_t>(sound), failure);
    KVSCOPE_CHECK(!failure, ErrorCode::io, failure.message(), path_);
    return;
  }
  std::ofstream file(path_, std::ios::binary | std::ios::trunc);
  file << magic << key << '\n' << std::flush;
  KVSCOPE_CHECK(file.good(), ErrorCode::io, "the file of finished layers cannot be written", path_,
                "free disk space, or write to another folder");
}

std::int64_t Checkpoint::read(const std::string& key) {
  std::ifstream file(path_, std::ios::binary);
  const std::string start = std::string(magic) + key + "\n";
  std::string head(start.size(), '\0');
  if (!file.read(head.data(), static_cast<std::streamsize>(head.size())) || head != start) {
    return 0;
  }
  std::error_code failure;
  const auto total = static_cast<std::uint64_t>(std::filesystem::file_size(path_, failure));
  std::uint64_t at = start.size();
  while (!failure) {
    RecordHeader header;
    if (!file.read(reinterpret_cast<char*>(&header), sizeof header) ||
        header.bytes > total - at - sizeof header) {
      break;
    }
    std::string bytes(header.bytes, '\0');
    if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size())) ||
        checksum(bytes) != header.sum) {
      break;
    }
    LayerResult result;
    Reader reader(bytes);
    visit(reader, result);
    if (!reader.good()) {
      break;
    }
    found_[static_cast<int>(header.layer)] = std::move(result);
    at += sizeof header + header.bytes;
  }
  return static_cast<std::int64_t>(at);
}

void Checkpoint::add(int layer, const LayerResult& result) {
  if (path_.empty()) {
    return;
  }
  LayerResult copy = result;
  Writer writer;
  visit(writer, copy);
  const RecordHeader header{layer, writer.bytes.size(), checksum(writer.bytes)};
  std::ofstream file(path_, std::ios::binary | std::ios::app);
  file.write(reinterpret_cast<const char*>(&header), sizeof header);
  file.write(writer.bytes.data(), static_cast<std::streamsize>(writer.bytes.size()));
  file.flush();
  KVSCOPE_CHECK(file.good(), ErrorCode::io, "a finished layer cannot be written", path_,
                "free disk space and start again; finished layers are kept");
}

}  // namespace kvscope::spectral
