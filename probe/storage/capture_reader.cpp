#include "kvscope/storage/capture_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>

#include "attributes.h"
#include "capture_attributes.h"
#include "capture_schema.h"
#include "h5.h"
#include "kvscope/storage/capture_state.h"
#include "live_status.h"

namespace kvscope {
namespace {

using h5::Extent;
using h5::Handle;
using h5::Session;

}  // namespace

struct CaptureReader::Impl {
  Handle file;
  CaptureIndex index;
  TokenTable tokens;
  bool live = false;  ///< there may be more to see
  std::uint64_t sequence = 0;
  std::vector<std::uint8_t> layer_done;
  std::vector<DroppedRange> dropped;
  std::map<std::string, Extent> extents;
  mutable std::map<std::string, Handle> open;

  const Handle& dataset(const std::string& name) const;
  void read_status();
  /// True indices along an axis of at most `size`; empty if the file has no such axis.
  std::vector<int> read_axis(const std::string& axis, int size) const;
  void check_ascending(const std::vector<int>& numbers, int first, int end,
                       const std::string& axis) const;
  void read_extents();
  void read_tokens();
  void read_dropped();
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

void CaptureReader::Impl::read_status() {
  // In the writer's order backwards: the last commit comes before the state that ends a run, and
  // what the ring speaks of was written before it.
  if (h5::exists(file, "status/state")) {
    index.state = h5::load<std::uint8_t>(file, "status/state", {64}).front();
  }
  const std::optional<Commit> commit = read_commit(file);
  if (h5::exists(file, "status/layer_done")) {
    layer_done = h5::load<std::uint8_t>(file, "status/layer_done",
                                        {static_cast<std::int64_t>(index.layers.size())});
  }
  if (h5::exists(file, "status/message_bytes")) {
    const auto bytes = h5::load<std::uint8_t>(file, "status/message_bytes", {65536});
    index.message.assign(bytes.begin(), std::find(bytes.begin(), bytes.end(), 0));
  }
  std::int64_t steps = 0;
  if (h5::exists(file, "axes/step")) {
    const Extent axis = h5::extent(h5::open_dataset(file, "axes/step"), "axes/step");
    steps = axis.empty() ? 0 : axis[0];
  }
  if (commit) {
    steps = std::min(steps,
                     static_cast<std::int64_t>(std::min<std::uint64_t>(commit->steps, 1u << 30)));
    sequence = commit->sequence;
  }
  KVSCOPE_CHECK(steps >= 0 && steps <= index.tokens - index.prompt_tokens, ErrorCode::corrupt_file,
                fmt::format("{} steps, {} planned", steps, index.tokens - index.prompt_tokens),
                index.path + ", /axes/step", "capture again");
  index.steps = static_cast<int>(steps);
  const std::vector<std::int32_t> numbers = h5::first_rows(file, "axes/step", steps);
  index.step_numbers.assign(numbers.begin(), numbers.end());
  check_ascending(index.step_numbers, 1, index.tokens - index.prompt_tokens + 1, "step");
}

void CaptureReader::Impl::check_ascending(const std::vector<int>& numbers, int first, int end,
                                          const std::string& axis) const {
  int next = first;
  for (const int number : numbers) {
    KVSCOPE_CHECK(number >= next && number < end, ErrorCode::corrupt_file,
                  fmt::format("{} where {} to {} are possible", number, next, end - 1),
                  fmt::format("{}, /axes/{}", index.path, axis));
    next = number + 1;
  }
}

std::vector<int> CaptureReader::Impl::read_axis(const std::string& axis, int size) const {
  const std::string name = "axes/" + axis;
  if (!h5::exists(file, name)) {
    return {};
  }
  const Extent extent = h5::extent(h5::open_dataset(file, name), name);
  KVSCOPE_CHECK(
      extent.size() == 1 && extent[0] >= 1 && extent[0] <= size, ErrorCode::corrupt_file,
      fmt::format("shape {} where at most {} are possible", h5::extent_text(extent), size),
      fmt::format("{}, /{}", index.path, name));
  const auto stored = h5::load<std::int32_t>(file, name, extent);
  std::vector<int> numbers(stored.begin(), stored.end());
  check_ascending(numbers, 0, size, axis);
  return numbers;
}

void CaptureReader::Impl::read_extents() {
  for (const std::string& name : h5::list_datasets(file)) {
    extents[name] = h5::extent(h5::open_dataset(file, name), name);
  }
  for (const auto& [name, extent] : extents) {
    check_capture_extent(index, name, extent);
  }
}

void CaptureReader::Impl::read_tokens() {
  const auto rows_of = [this](const char* name) {
    const auto found = extents.find(name);
    KVSCOPE_CHECK(found != extents.end() && found->second.size() == 1, ErrorCode::corrupt_file,
                  "the table of tokens is incomplete", fmt::format("{}, /{}", index.path, name));
    return found->second[0];
  };
  std::int64_t rows = rows_of("tokens/id");
  if (index.state != static_cast<int>(CaptureState::done)) {
    const int newest = index.step_numbers.empty() ? 0 : index.step_numbers.back();
    rows = std::min<std::int64_t>(rows, index.prompt_tokens + newest);
  }
  KVSCOPE_CHECK(
      rows >= index.prompt_tokens && rows <= index.tokens, ErrorCode::corrupt_file,
      fmt::format("{} tokens where {} to {} are planned", rows, index.prompt_tokens, index.tokens),
      fmt::format("{}, /tokens/id", index.path));
  const auto column = [&]<typename T>(const char* name, std::int64_t count, T) {
    KVSCOPE_CHECK(rows_of(name) >= count, ErrorCode::corrupt_file,
                  fmt::format("{} rows where {} are needed", rows_of(name), count),
                  fmt::format("{}, /{}", index.path, name));
    const Handle& dataset = this->dataset(name);
    const Handle type(H5Dget_type(dataset), H5Tclose);
    h5::require_written(dataset, h5::element_type(type, name), {count}, name);
    std::vector<T> values(static_cast<std::size_t>(count));
    read(name, {0}, {count}, h5::native<T>(), std::span(values));
    return values;
  };
  tokens = {};
  tokens.id = column("tokens/id", rows, std::int32_t{});
  tokens.position = column("tokens/position", rows, std::int32_t{});
  tokens.text_end = column("tokens/text_end", rows, std::int64_t{});
  const std::int64_t bytes = tokens.text_end.empty() ? 0 : tokens.text_end.back();
  KVSCOPE_CHECK(bytes >= 0 && bytes <= rows_of("tokens/text_bytes"), ErrorCode::corrupt_file,
                "the text offsets run backwards or beyond the text",
                fmt::format("{}, /tokens/text_end", index.path));
  tokens.text_bytes = column("tokens/text_bytes", bytes, std::uint8_t{});
  for (const std::uint8_t segment : column("tokens/segment", rows, std::uint8_t{})) {
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

void CaptureReader::Impl::read_dropped() {
  dropped.clear();
  const auto found = extents.find("status/dropped");
  if (found == extents.end() || found->second.empty() || found->second[0] == 0) {
    return;
  }
  std::vector<std::string> names;
  std::stringstream text(h5::get_text(dataset("status/dropped"), "datasets"));
  for (std::string name; std::getline(text, name, ',');) {
    names.push_back(name);
  }
  const std::int64_t rows = found->second[0];
  const auto cells = h5::load<std::int64_t>(file, "status/dropped", {rows, 6});
  for (std::size_t at = 0; at < cells.size(); at += 6) {
    const std::int64_t name = cells[at];
    if (name < 0) {
      continue;  // its writer has not come to it
    }
    KVSCOPE_CHECK(name < std::ssize(names), ErrorCode::corrupt_file,
                  fmt::format("dataset {} of {}", name, names.size()),
                  fmt::format("{}, /status/dropped", index.path));
    dropped.push_back({names[static_cast<std::size_t>(name)],
                       static_cast<int>(std::clamp<std::int64_t>(cells[at + 1], -1, 1 << 16)),
                       cells[at + 2], cells[at + 3], cells[at + 4], cells[at + 5]});
  }
}

CaptureReader::CaptureReader(const std::string& path) : impl_(std::make_unique<Impl>()) {
  const Session session;
  impl_->file = h5::open_file(path);
  impl_->index = read_index(impl_->file, path);
  impl_->live = h5::may_change(path);
  const ModelShape& shape = impl_->index.shape;
  impl_->index.layers = impl_->read_axis("layer", shape.layers);
  KVSCOPE_CHECK(!impl_->index.layers.empty(), ErrorCode::corrupt_file,
                "the axis of layers is missing", fmt::format("{}, /axes/layer", path));
  impl_->index.query_heads = impl_->read_axis("query_head", shape.query_heads);
  impl_->index.kv_heads = impl_->read_axis("kv_head", shape.kv_heads);
  impl_->index.hook_tokens = impl_->read_axis("hook_token", impl_->index.prompt_tokens);
  impl_->read_status();
  impl_->read_extents();
  impl_->read_tokens();
  impl_->read_dropped();
}

bool CaptureReader::refresh() {
  const Session session;
  Impl& impl = *impl_;
  if (!impl.live) {
    return false;
  }
  const std::uint64_t sequence = impl.sequence;
  const int state = impl.index.state;
  const std::vector<std::uint8_t> layer_done = impl.layer_done;
  impl.read_status();
  if (impl.sequence == sequence && impl.index.state == state && impl.layer_done == layer_done) {
    return false;
  }
  // Opened anew, not H5Drefresh: where another handle of the process has the same dataset open,
  // HDF5 1.10 then reads its first chunk in place of the others.
  impl.open.clear();
  impl.file.reset();
  impl.file = h5::open_file(impl.index.path);
  impl.live = h5::may_change(impl.index.path);
  impl.read_status();
  impl.read_extents();
  impl.read_tokens();
  impl.read_dropped();
  return true;
}

bool CaptureReader::layer_done(int captured_layer) const {
  return impl_->layer_done.empty() || impl_->index.state == static_cast<int>(CaptureState::done) ||
         impl_->layer_done.at(static_cast<std::size_t>(captured_layer)) != 0;
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

const std::vector<DroppedRange>& CaptureReader::dropped() const {
  return impl_->dropped;
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
