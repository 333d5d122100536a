#include <hdf5_hl.h>

#include <algorithm>
#include <numeric>

#include "attributes.h"
#include "capture_writer_impl.h"

namespace kvscope {
namespace {

using h5::Handle;

std::vector<std::int32_t> counting(int count) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

/// Axes a dimension label may refer to; datasets with these labels get the scale attached.
constexpr const char* scale_names[] = {"layer", "query_head", "kv_head",
                                       "token", "hook_token", "step"};

}  // namespace

void CaptureWriter::Impl::create_axes(const CaptureIndex& header) {
  const auto scale = [this](const std::string& name, const std::vector<std::int32_t>& values,
                            bool grows, std::int64_t chunk = 65536) {
    DatasetSpec spec;
    spec.path = "axes/" + name;
    spec.type = ElementType::i4;
    spec.shape = {static_cast<std::int64_t>(values.size())};
    spec.chunk = {chunk};
    Entry entry{h5::create_dataset(file, spec, {grows, false}), spec};
    if (!values.empty()) {
      h5::write_all(entry.handle, spec.path, H5T_NATIVE_INT32, values.data());
    }
    H5DSset_scale(entry.handle, name.c_str());
    datasets.emplace(spec.path, std::move(entry));
  };
  scale("layer", header.layers, false);
  scale("query_head",
        header.query_heads.empty() ? counting(header.shape.query_heads) : header.query_heads,
        false);
  scale("kv_head", header.kv_heads.empty() ? counting(header.shape.kv_heads) : header.kv_heads,
        false);
  scale("token", counting(header.tokens), false);
  if (!header.hook_tokens.empty()) {
    scale("hook_token", header.hook_tokens, false);
  }
  scale("step", {}, true, 1024);
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

void CaptureWriter::Impl::create_dropped(const std::vector<DatasetSpec>& announced) {
  DatasetSpec spec;
  spec.path = "status/dropped";
  spec.type = ElementType::i8;
  spec.shape = {0, 6};
  spec.chunk = {1024, 6};
  spec.units = "1";
  spec.long_name =
      "what was left out because the disk was slower than the run: index into the attribute "
      "'datasets', layer (-1 = all), first and last step (0 = the prompt), bytes, reason (1 = left "
      "out whole, n > 1 = only every n-th step written)";
  Entry entry{h5::create_dataset(file, spec, {true, false}), spec};
  std::string names;
  for (const DatasetSpec& dataset : announced) {
    names += (names.empty() ? "" : ",") + dataset.path;
    dropped_names.push_back(dataset.path);
  }
  h5::set_text(entry.handle, "datasets", names);
  datasets.emplace(spec.path, std::move(entry));
}

void CaptureWriter::Impl::add_dropped(const DroppedRange& range) {
  const auto name = std::find(dropped_names.begin(), dropped_names.end(), range.dataset);
  KVSCOPE_CHECK(name != dropped_names.end(), ErrorCode::failed,
                "this dataset was not announced when the file was created", "/" + range.dataset);
  const std::int64_t row[6] = {name - dropped_names.begin(),
                               range.layer,
                               range.first_step,
                               range.last_step,
                               range.bytes,
                               range.reason};
  Entry& entry = find("status/dropped");
  const hsize_t extent[2] = {static_cast<hsize_t>(++dropped_rows), 6};
  h5::require(H5Dset_extent(entry.handle, extent) >= 0, ErrorCode::io, "the dataset cannot grow",
              "/status/dropped");
  entry.spec.shape[0] = dropped_rows;
  write_box(entry, {dropped_rows - 1, 0}, {1, 6}, H5T_NATIVE_INT64, row);
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

void CaptureWriter::Impl::set_step_axis(int steps) {
  Entry& axis = find("axes/step");
  if (axis.rows == steps) {
    return;
  }
  const hsize_t count = static_cast<hsize_t>(steps);
  h5::require(H5Dset_extent(axis.handle, &count) >= 0, ErrorCode::io,
              "the axis cannot be brought to its length", "/axes/step");
  std::vector<std::int32_t> numbers = counting(steps);
  for (std::int32_t& number : numbers) {
    const auto row = static_cast<std::size_t>(number);
    number = row < index.step_numbers.size() ? index.step_numbers[row] : number + 1;  // 0: prefill
  }
  if (steps > 0) {
    h5::write_all(axis.handle, "axes/step", H5T_NATIVE_INT32, numbers.data());
  }
  axis.rows = steps;
}

}  // namespace kvscope
