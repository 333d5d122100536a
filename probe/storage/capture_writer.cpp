#include "kvscope/storage/capture_writer.h"

#include <fmt/format.h>
#include <hdf5_hl.h>

#include <map>
#include <numeric>

#include "attributes.h"
#include "capture_attributes.h"
#include "h5.h"
#include "temporary_file.h"

namespace kvscope {
namespace {

using h5::Extent;
using h5::Handle;
using h5::Session;

constexpr std::uint8_t state_prefill = 2;
constexpr std::uint8_t state_done = 4;

bool is_step_series(const std::string& path) {
  return path.starts_with("steps/");
}

std::vector<std::int32_t> counting(int count) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

/// Axes a dimension label may refer to; datasets with these labels get the scale attached.
constexpr const char* scale_names[] = {"layer", "query_head", "kv_head", "token", "step"};

}  // namespace

struct CaptureWriter::Impl {
  Impl(const std::string& path, bool force) : temporary(path, force) {}

  struct Entry {
    Handle handle;
    DatasetSpec spec;
  };

  void create_axes(const CaptureIndex& index);
  void create_tokens(const TokenTable& prompt, int planned);
  void attach_scales(const Entry& entry);
  Entry& find(const std::string& name);
  void write_box(Entry& entry, const Extent& offset, const Extent& count, hid_t memory,
                 const void* values);
  void set_token_row(int token, std::int32_t id, std::int32_t position, Segment segment,
                     const std::string& piece);

  TemporaryFile temporary;
  Handle file;
  std::map<std::string, Entry> datasets;
  CaptureIndex index;
  int tokens = 0;
  std::int64_t text_bytes = 0;
};

void CaptureWriter::Impl::create_axes(const CaptureIndex& header) {
  const auto scale = [this](const std::string& name, const std::vector<std::int32_t>& values,
                            bool grows) {
    DatasetSpec spec;
    spec.path = "axes/" + name;
    spec.type = ElementType::i4;
    spec.shape = {static_cast<std::int64_t>(values.size())};
    spec.chunk = {65536};
    Entry entry{h5::create_dataset(file, spec, {grows, false}), spec};
    if (!values.empty()) {
      h5::write_all(entry.handle, spec.path, H5T_NATIVE_INT32, values.data());
    }
    H5DSset_scale(entry.handle, name.c_str());
    datasets.emplace(spec.path, std::move(entry));
  };
  scale("layer", header.layers, false);
  scale("query_head", counting(header.shape.query_heads), false);
  scale("kv_head", counting(header.shape.kv_heads), false);
  scale("token", counting(header.tokens), false);
  scale("step", {}, true);
  std::vector<std::int32_t> windows;
  std::vector<double> bases;
  for (const int layer : header.layers) {
    windows.push_back(header.shape.window_of(layer));
    bases.push_back(header.shape.rope_of(layer).base);
  }
  const auto layers = static_cast<std::int64_t>(header.layers.size());
  DatasetSpec spec;
  spec.path = "axes/layer_window";
  spec.type = ElementType::i4;
  spec.shape = {layers};
  spec.units = "tokens";
  spec.long_name = "sliding window of the layer, 0 = global";
  h5::store(file, spec, windows);
  spec.path = "axes/layer_rope_base";
  spec.type = ElementType::f8;
  spec.units = "1";
  spec.long_name = "RoPE base of the layer";
  h5::store(file, spec, bases);
}

void CaptureWriter::Impl::create_tokens(const TokenTable& prompt, int planned) {
  const auto add = [this](const char* name, ElementType type, std::int64_t rows, std::int64_t chunk,
                          const char* long_name) {
    DatasetSpec spec;
    spec.path = name;
    spec.type = type;
    spec.shape = {rows};
    spec.chunk = {chunk};
    spec.units = "1";
    spec.long_name = long_name;
    datasets.emplace(name, Entry{h5::create_dataset(file, spec, {true, false}), spec});
  };
  const std::int64_t chunk = std::min<std::int64_t>(16384, std::max(planned, 1));
  add("tokens/id", ElementType::i4, 0, chunk, "token id");
  add("tokens/position", ElementType::i4, 0, chunk, "position given to RoPE");
  add("tokens/segment", ElementType::u1, 0, chunk,
      "0 template, 1 context, 2 question, 3 generated");
  add("tokens/text_end", ElementType::i8, 0, chunk, "end of the token's bytes in text_bytes");
  add("tokens/text_bytes", ElementType::u1, 0, 65536, "UTF-8 pieces of the tokens, end to end");

  const auto rows = static_cast<std::int64_t>(prompt.size());
  const auto fill = [this](const char* name, std::int64_t count, hid_t memory, const void* values) {
    Entry& entry = find(name);
    const hsize_t extent = static_cast<hsize_t>(count);
    h5::require(H5Dset_extent(entry.handle, &extent) >= 0, ErrorCode::io, "the dataset cannot grow",
                name);
    if (count > 0) {
      h5::write_all(entry.handle, name, memory, values);
    }
  };
  fill("tokens/id", rows, H5T_NATIVE_INT32, prompt.id.data());
  fill("tokens/position", rows, H5T_NATIVE_INT32, prompt.position.data());
  fill("tokens/segment", rows, H5T_NATIVE_UINT8, prompt.segment.data());
  fill("tokens/text_end", rows, H5T_NATIVE_INT64, prompt.text_end.data());
  text_bytes = static_cast<std::int64_t>(prompt.text_bytes.size());
  fill("tokens/text_bytes", text_bytes, H5T_NATIVE_UINT8, prompt.text_bytes.data());
  tokens = prompt.size();
}

void CaptureWriter::Impl::attach_scales(const Entry& entry) {
  for (std::size_t axis = 0; axis < entry.spec.labels.size(); ++axis) {
    for (const char* name : scale_names) {
      const auto scale = datasets.find(std::string("axes/") + name);
      if (entry.spec.labels[axis] == name && scale != datasets.end()) {
        H5DSattach_scale(entry.handle, scale->second.handle, static_cast<unsigned>(axis));
      }
    }
  }
}

CaptureWriter::Impl::Entry& CaptureWriter::Impl::find(const std::string& name) {
  const auto found = datasets.find(name);
  KVSCOPE_CHECK(found != datasets.end(), ErrorCode::failed,
                "this dataset was not announced when the file was created", "/" + name);
  return found->second;
}

void CaptureWriter::Impl::write_box(Entry& entry, const Extent& offset, const Extent& count,
                                    hid_t memory, const void* values) {
  const std::string object = "/" + entry.spec.path;
  const std::size_t rank = entry.spec.shape.size();
  KVSCOPE_CHECK(
      offset.size() == rank && count.size() == rank, ErrorCode::failed,
      fmt::format("a box of rank {} for shape {}", count.size(), h5::extent_text(entry.spec.shape)),
      object);
  std::vector<hsize_t> first(offset.begin(), offset.end());
  std::vector<hsize_t> size(count.begin(), count.end());
  for (std::size_t axis = 0; axis < rank; ++axis) {
    KVSCOPE_CHECK(offset[axis] >= 0 && count[axis] >= 0 &&
                      offset[axis] + count[axis] <= entry.spec.shape[axis],
                  ErrorCode::failed,
                  fmt::format("box {} + {} lies outside shape {}", h5::extent_text(offset),
                              h5::extent_text(count), h5::extent_text(entry.spec.shape)),
                  object);
  }
  const Handle space(H5Dget_space(entry.handle), H5Sclose);
  const Handle box(H5Screate_simple(static_cast<int>(rank), size.data(), nullptr), H5Sclose);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, first.data(), nullptr, size.data(), nullptr);
  h5::require(H5Dwrite(entry.handle, memory, box, space, H5P_DEFAULT, values) >= 0, ErrorCode::io,
              "the dataset cannot be written", object);
}

void CaptureWriter::Impl::set_token_row(int token, std::int32_t id, std::int32_t position,
                                        Segment segment, const std::string& piece) {
  const std::int64_t end = text_bytes + static_cast<std::int64_t>(piece.size());
  const auto grow = [this](const char* name, std::int64_t rows) -> Entry& {
    Entry& entry = find(name);
    const hsize_t extent = static_cast<hsize_t>(rows);
    h5::require(H5Dset_extent(entry.handle, &extent) >= 0, ErrorCode::io, "the dataset cannot grow",
                name);
    entry.spec.shape = {rows};
    return entry;
  };
  const std::int64_t rows = token + 1;
  write_box(grow("tokens/id", rows), {token}, {1}, H5T_NATIVE_INT32, &id);
  write_box(grow("tokens/position", rows), {token}, {1}, H5T_NATIVE_INT32, &position);
  write_box(grow("tokens/segment", rows), {token}, {1}, H5T_NATIVE_UINT8, &segment);
  write_box(grow("tokens/text_end", rows), {token}, {1}, H5T_NATIVE_INT64, &end);
  if (!piece.empty()) {
    write_box(grow("tokens/text_bytes", end), {text_bytes},
              {static_cast<std::int64_t>(piece.size())}, H5T_NATIVE_UINT8, piece.data());
  }
  text_bytes = end;
}

CaptureWriter::CaptureWriter(const std::string& path, const CaptureIndex& index,
                             const TokenTable& prompt, const std::vector<DatasetSpec>& datasets,
                             Options options)
    : impl_(std::make_unique<Impl>(path, options.force)) {
  const Session session;
  impl_->index = index;
  impl_->file = h5::create_file(impl_->temporary.name());
  write_index(impl_->file, index);
  impl_->create_axes(index);
  impl_->create_tokens(prompt, index.tokens);
  for (const DatasetSpec& spec : datasets) {
    const bool compress = options.compress && spec.path.starts_with("reduce/");
    Impl::Entry entry{h5::create_dataset(impl_->file, spec, {is_step_series(spec.path), compress}),
                      spec};
    impl_->attach_scales(entry);
    impl_->datasets.emplace(spec.path, std::move(entry));
  }
  DatasetSpec state;
  state.path = "status/state";
  state.type = ElementType::u1;
  state.shape = {64};
  state.long_name =
      "0 unused, 1 loading, 2 prefill, 3 decode, 4 done, 5 stopped, 6 error, 7 disk full";
  Handle handle = h5::store(impl_->file, state, std::vector<std::uint8_t>(64, state_prefill));
  impl_->datasets.emplace(state.path, Impl::Entry{std::move(handle), state});
}

CaptureWriter::~CaptureWriter() {
  const Session session;
  impl_.reset();
}

void CaptureWriter::write(const std::string& dataset, const std::vector<std::int64_t>& offset,
                          const std::vector<std::int64_t>& count, std::span<const float> values) {
  KVSCOPE_CHECK(h5::elements(count) == static_cast<std::int64_t>(values.size()), ErrorCode::failed,
                fmt::format("{} values for a box of {}", values.size(), h5::extent_text(count)),
                "/" + dataset);
  Impl::Entry& entry = impl_->find(dataset);
  if (entry.spec.type != ElementType::bf16) {
    const Session session;
    impl_->write_box(entry, offset, count, H5T_NATIVE_FLOAT, values.data());
    return;
  }
  // HDF5's own conversion rounds some values wrongly and is slow.
  std::vector<std::uint16_t> bits(values.size());
  for (std::size_t element = 0; element < values.size(); ++element) {
    bits[element] = h5::to_bf16(values[element]);
  }
  const Session session;
  const Handle type = h5::disk_type(ElementType::bf16);
  impl_->write_box(entry, offset, count, type, bits.data());
}

void CaptureWriter::write(const std::string& dataset, const std::vector<std::int64_t>& offset,
                          const std::vector<std::int64_t>& count,
                          std::span<const std::int32_t> values) {
  const Session session;
  KVSCOPE_CHECK(h5::elements(count) == static_cast<std::int64_t>(values.size()), ErrorCode::failed,
                fmt::format("{} values for a box of {}", values.size(), h5::extent_text(count)),
                "/" + dataset);
  impl_->write_box(impl_->find(dataset), offset, count, H5T_NATIVE_INT32, values.data());
}

void CaptureWriter::write(const std::string& dataset, const std::vector<std::int64_t>& offset,
                          const std::vector<std::int64_t>& count,
                          std::span<const std::int64_t> values) {
  const Session session;
  KVSCOPE_CHECK(h5::elements(count) == static_cast<std::int64_t>(values.size()), ErrorCode::failed,
                fmt::format("{} values for a box of {}", values.size(), h5::extent_text(count)),
                "/" + dataset);
  impl_->write_box(impl_->find(dataset), offset, count, H5T_NATIVE_INT64, values.data());
}

void CaptureWriter::append_token(std::int32_t id, std::int32_t position, const std::string& piece) {
  const Session session;
  KVSCOPE_CHECK(impl_->tokens < impl_->index.tokens, ErrorCode::failed,
                fmt::format("the capture was planned for {} tokens", impl_->index.tokens),
                impl_->temporary.path(), "plan more with --new-tokens");
  impl_->set_token_row(impl_->tokens, id, position, Segment::generated, piece);
  ++impl_->tokens;
}

void CaptureWriter::set_attribute(const std::string& dataset, const std::string& name,
                                  const std::string& value) {
  const Session session;
  h5::set_text(dataset.empty() ? impl_->file.get() : impl_->find(dataset).handle.get(), name,
               value);
}

void CaptureWriter::finish(int steps) {
  {
    const Session session;
    for (auto& [path, entry] : impl_->datasets) {
      if (is_step_series(path)) {
        std::vector<hsize_t> extent(entry.spec.shape.begin(), entry.spec.shape.end());
        extent[0] = static_cast<hsize_t>(steps);
        h5::require(H5Dset_extent(entry.handle, extent.data()) >= 0, ErrorCode::io,
                    "the step series cannot be cut to its length", "/" + path);
      }
    }
    const hsize_t step_count = static_cast<hsize_t>(steps);
    Impl::Entry& axis = impl_->find("axes/step");
    h5::require(H5Dset_extent(axis.handle, &step_count) >= 0, ErrorCode::io,
                "the axis cannot be cut to its length", "/axes/step");
    std::vector<std::int32_t> numbers = counting(steps);
    for (std::int32_t& number : numbers) {
      ++number;  // step 0 is prefill
    }
    if (steps > 0) {
      h5::write_all(axis.handle, "axes/step", H5T_NATIVE_INT32, numbers.data());
    }
    const std::vector<std::uint8_t> done(64, state_done);
    h5::write_all(impl_->find("status/state").handle, "status/state", H5T_NATIVE_UINT8,
                  done.data());
    h5::set_number(impl_->file, "steps", steps);
    impl_->datasets.clear();
    h5::require(H5Fflush(impl_->file, H5F_SCOPE_GLOBAL) >= 0, ErrorCode::io,
                "the file cannot be flushed", impl_->temporary.path());
    h5::require(impl_->file.reset(), ErrorCode::io, "the file cannot be closed",
                impl_->temporary.path());
  }
  impl_->temporary.commit();
}

}  // namespace kvscope
