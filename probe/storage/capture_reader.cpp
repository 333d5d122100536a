#include "kvscope/storage/capture_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <map>

#include "attributes.h"
#include "capture_attributes.h"
#include "h5.h"

namespace kvscope {
namespace {

using h5::Extent;
using h5::Handle;
using h5::Session;

/// Which flag captures a dataset; what the error for an absent one recommends.
std::string how_to_capture(const std::string& dataset) {
  if (dataset.starts_with("layers/")) {
    return dataset.ends_with("/attention") ? "capture again with --attention-maps"
           : dataset.ends_with("/queries")
               ? "capture again with --profile qkv (newest queries) or full"
               : "capture again with --profile qkv or full";
  }
  if (dataset.starts_with("steps/")) {
    return "capture again with --new-tokens N and --profile qkv or full";
  }
  if (dataset.find("window_") != std::string::npos) {
    return "capture again with --window W naming this window";
  }
  return "capture again with --profile scores, qkv or full";
}

/// Ranks and leading sizes every known dataset must have.
void check_extents(const CaptureIndex& index, const std::string& path, const Extent& extent) {
  const auto layers = static_cast<std::int64_t>(index.layers.size());
  const auto expect = [&](bool good, const std::string& wanted) {
    KVSCOPE_CHECK(
        good, ErrorCode::corrupt_file,
        fmt::format("shape {} where the file's sizes ask for {}", h5::extent_text(extent), wanted),
        "/" + path);
  };
  if (path.starts_with("reduce/") && !path.starts_with("reduce/pooled")) {
    const bool check = path == "reduce/self_check";
    expect(extent.size() >= (check ? 2u : 3u) && extent[0] == layers &&
               (extent[1] == index.shape.query_heads || extent[1] == index.shape.kv_heads) &&
               (check || (extent[2] >= index.prompt_tokens && extent[2] <= index.tokens)),
           fmt::format("[{}, heads, {} or more tokens]", layers, index.prompt_tokens));
  } else if (path.starts_with("layers/")) {
    expect(extent.size() >= 2, "two axes or more");
    if (extent.size() == 3 && !path.ends_with("/attention")) {
      expect((extent[0] == index.shape.query_heads || extent[0] == index.shape.kv_heads) &&
                 extent[2] == index.shape.head_dim,
             fmt::format("[heads, rows, {}]", index.shape.head_dim));
    }
  }
}

}  // namespace

struct CaptureReader::Impl {
  Handle file;
  CaptureIndex index;
  TokenTable tokens;
  std::map<std::string, Extent> extents;
  mutable std::map<std::string, Handle> open;

  const Handle& dataset(const std::string& name) const;
  void read_tokens();
  template <typename T>
  void read(const std::string& name, const Extent& offset, const Extent& count, hid_t memory,
            std::span<T> out) const;
};

const Handle& CaptureReader::Impl::dataset(const std::string& name) const {
  const auto known = extents.find(name);
  if (known == extents.end()) {
    throw Error(
        ErrorCode::missing_data,
        fmt::format("the capture (profile {}) does not hold this", profile_name(index.profile)),
        fmt::format("{}, /{}", index.path, name), how_to_capture(name));
  }
  auto found = open.find(name);
  if (found == open.end()) {
    found = open.emplace(name, h5::open_dataset(file, name)).first;
  }
  return found->second;
}

template <typename T>
void CaptureReader::Impl::read(const std::string& name, const Extent& offset, const Extent& count,
                               hid_t memory, std::span<T> out) const {
  const Session session;
  const Handle& source = dataset(name);
  const Extent& whole = extents.at(name);
  const std::string object = fmt::format("{}, /{}", index.path, name);
  KVSCOPE_CHECK(offset.size() == whole.size() && count.size() == whole.size() &&
                    h5::elements(count) == static_cast<std::int64_t>(out.size()),
                ErrorCode::usage,
                fmt::format("a box of {} for shape {} and {} values", h5::extent_text(count),
                            h5::extent_text(whole), out.size()),
                object);
  std::vector<hsize_t> first(offset.begin(), offset.end());
  std::vector<hsize_t> size(count.begin(), count.end());
  for (std::size_t axis = 0; axis < whole.size(); ++axis) {
    KVSCOPE_CHECK(
        offset[axis] >= 0 && count[axis] >= 0 && offset[axis] <= whole[axis] - count[axis],
        ErrorCode::missing_data,
        fmt::format("box {} + {} lies outside shape {}", h5::extent_text(offset),
                    h5::extent_text(count), h5::extent_text(whole)),
        object, how_to_capture(name));
  }
  if (out.empty()) {
    return;
  }
  const Handle space(H5Dget_space(source), H5Sclose);
  const Handle box(H5Screate_simple(static_cast<int>(size.size()), size.data(), nullptr), H5Sclose);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, first.data(), nullptr, size.data(), nullptr);
  h5::require(H5Dread(source, memory, box, space, H5P_DEFAULT, out.data()) >= 0,
              ErrorCode::corrupt_file, "the dataset cannot be read", object);
}

void CaptureReader::Impl::read_tokens() {
  const auto rows_of = [this](const char* name) {
    const auto found = extents.find(name);
    KVSCOPE_CHECK(found != extents.end() && found->second.size() == 1, ErrorCode::corrupt_file,
                  "the table of tokens is incomplete", fmt::format("{}, /{}", index.path, name));
    return found->second[0];
  };
  const std::int64_t rows = rows_of("tokens/id");
  KVSCOPE_CHECK(
      rows >= index.prompt_tokens && rows <= index.tokens, ErrorCode::corrupt_file,
      fmt::format("{} tokens where {} to {} are planned", rows, index.prompt_tokens, index.tokens),
      fmt::format("{}, /tokens/id", index.path));
  tokens.id = h5::load<std::int32_t>(file, "tokens/id", {rows});
  tokens.position = h5::load<std::int32_t>(file, "tokens/position", {rows});
  tokens.text_end = h5::load<std::int64_t>(file, "tokens/text_end", {rows});
  tokens.text_bytes =
      h5::load<std::uint8_t>(file, "tokens/text_bytes", {rows_of("tokens/text_bytes")});
  for (const std::uint8_t segment : h5::load<std::uint8_t>(file, "tokens/segment", {rows})) {
    KVSCOPE_CHECK(segment <= static_cast<std::uint8_t>(Segment::generated), ErrorCode::corrupt_file,
                  fmt::format("unknown segment {}", segment),
                  fmt::format("{}, /tokens/segment", index.path));
    tokens.segment.push_back(static_cast<Segment>(segment));
  }
  std::int64_t last = 0;
  for (const std::int64_t end : tokens.text_end) {
    KVSCOPE_CHECK(end >= last && end <= static_cast<std::int64_t>(tokens.text_bytes.size()),
                  ErrorCode::corrupt_file, "the text offsets run backwards or beyond the text",
                  fmt::format("{}, /tokens/text_end", index.path));
    last = end;
  }
  tokens.prompt_tokens = index.prompt_tokens;
  tokens.context_tokens = index.context_tokens;
}

CaptureReader::CaptureReader(const std::string& path) : impl_(std::make_unique<Impl>()) {
  const Session session;
  impl_->file = h5::open_file(path);
  impl_->index = read_index(impl_->file, path);
  for (const std::string& name : h5::list_datasets(impl_->file)) {
    impl_->extents[name] = h5::extent(h5::open_dataset(impl_->file, name), name);
  }
  const auto layers = impl_->extents.find("axes/layer");
  KVSCOPE_CHECK(layers != impl_->extents.end() && layers->second.size() == 1 &&
                    layers->second[0] >= 1 && layers->second[0] <= impl_->index.shape.layers,
                ErrorCode::corrupt_file, "the axis of layers is missing or too long",
                fmt::format("{}, /axes/layer", path));
  for (const std::int32_t layer :
       h5::load<std::int32_t>(impl_->file, "axes/layer", layers->second)) {
    KVSCOPE_CHECK(layer >= 0 && layer < impl_->index.shape.layers, ErrorCode::corrupt_file,
                  fmt::format("layer {} of {}", layer, impl_->index.shape.layers),
                  fmt::format("{}, /axes/layer", path));
    impl_->index.layers.push_back(layer);
  }
  const auto steps = impl_->extents.find("axes/step");
  impl_->index.steps = steps == impl_->extents.end() || steps->second.empty()
                           ? 0
                           : static_cast<int>(steps->second[0]);
  if (impl_->extents.count("status/state") > 0) {
    impl_->index.state = h5::load<std::uint8_t>(impl_->file, "status/state", {64}).front();
  }
  for (const auto& [name, extent] : impl_->extents) {
    check_extents(impl_->index, name, extent);
  }
  impl_->read_tokens();
}

CaptureReader::~CaptureReader() {
  const Session session;
  impl_.reset();
}
CaptureReader::CaptureReader(CaptureReader&&) noexcept = default;
CaptureReader& CaptureReader::operator=(CaptureReader&&) noexcept = default;

const CaptureIndex& CaptureReader::index() const {
  return impl_->index;
}
const TokenTable& CaptureReader::tokens() const {
  return impl_->tokens;
}

bool CaptureReader::has(const std::string& dataset) const {
  return impl_->extents.count(dataset) > 0;
}

std::vector<std::int64_t> CaptureReader::shape(const std::string& dataset) const {
  const auto found = impl_->extents.find(dataset);
  return found == impl_->extents.end() ? Extent{} : found->second;
}

void CaptureReader::read(const std::string& dataset, const std::vector<std::int64_t>& offset,
                         const std::vector<std::int64_t>& count, std::span<float> out) const {
  ElementType stored = ElementType::f4;
  {
    const Session session;
    const Handle type(H5Dget_type(impl_->dataset(dataset)), H5Tclose);
    stored = h5::element_type(type, "/" + dataset);
  }
  if (stored != ElementType::bf16) {
    impl_->read(dataset, offset, count, H5T_NATIVE_FLOAT, out);
    return;
  }
  std::vector<std::uint16_t> bits(out.size());
  const Handle type = h5::disk_type(ElementType::bf16);
  impl_->read(dataset, offset, count, type, std::span(bits));
  for (std::size_t element = 0; element < bits.size(); ++element) {
    out[element] = std::bit_cast<float>(static_cast<std::uint32_t>(bits[element]) << 16);
  }
}

void CaptureReader::read(const std::string& dataset, const std::vector<std::int64_t>& offset,
                         const std::vector<std::int64_t>& count,
                         std::span<std::int32_t> out) const {
  impl_->read(dataset, offset, count, H5T_NATIVE_INT32, out);
}

std::vector<float> CaptureReader::read_plane(const std::string& name, int captured_layer,
                                             int tokens) const {
  const std::string dataset = "reduce/" + name;
  {
    const Session session;
    impl_->dataset(dataset);
  }
  const Extent& whole = impl_->extents.at(dataset);
  KVSCOPE_CHECK(whole.size() == 3, ErrorCode::usage, "this dataset is no plane of heads and tokens",
                "/" + dataset);
  std::vector<float> values(static_cast<std::size_t>(whole[1] * tokens));
  read(dataset, {captured_layer, 0, 0}, {1, whole[1], tokens}, std::span(values));
  return values;
}

std::string CaptureReader::attribute(const std::string& dataset, const std::string& name) const {
  const Session session;
  return h5::get_text(dataset.empty() ? impl_->file.get() : impl_->dataset(dataset).get(), name);
}

std::vector<std::string> CaptureReader::datasets() const {
  std::vector<std::string> names;
  for (const auto& [name, extent] : impl_->extents) {
    names.push_back(name);
  }
  return names;
}

std::string layer_dataset(int layer, const std::string& name) {
  return fmt::format("layers/{:03}/{}", layer, name);
}

}  // namespace kvscope
