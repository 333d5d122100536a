#include "kvscope/storage/capture_writer.h"

#include <fmt/format.h>

#include <filesystem>

#include "attributes.h"
#include "capture_attributes.h"
#include "capture_writer_impl.h"

namespace kvscope {
namespace {

using h5::Extent;
using h5::Handle;
using h5::Session;

}  // namespace

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
  if (is_step_series(entry.spec.path) && offset[0] + count[0] > entry.rows) {
    set_series_rows(entry, offset[0] + count[0]);
  }
  const Handle space(H5Dget_space(entry.handle), H5Sclose);
  const Handle box(H5Screate_simple(static_cast<int>(rank), size.data(), nullptr), H5Sclose);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, first.data(), nullptr, size.data(), nullptr);
  h5::require(H5Dwrite(entry.handle, memory, box, space, H5P_DEFAULT, values) >= 0, ErrorCode::io,
              "the dataset cannot be written", object);
}

void CaptureWriter::Impl::set_series_rows(Entry& entry, std::int64_t rows) {
  std::vector<hsize_t> extent(entry.spec.shape.begin(), entry.spec.shape.end());
  extent[0] = static_cast<hsize_t>(rows);
  h5::require(H5Dset_extent(entry.handle, extent.data()) >= 0, ErrorCode::io,
              "the series cannot be brought to its length", "/" + entry.spec.path);
  entry.rows = rows;
}

void CaptureWriter::Impl::close_file() {
  datasets.clear();
  const bool flushed = H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0;
  h5::require(flushed, ErrorCode::io, "the file cannot be flushed", path);
  h5::require(file.reset(), ErrorCode::io, "the file cannot be closed", path);
}

CaptureWriter::CaptureWriter(const std::string& path, const CaptureIndex& index,
                             const TokenTable& prompt, const std::vector<DatasetSpec>& datasets,
                             Options options)
    : impl_(std::make_unique<Impl>()) {
  const Session session;
  Impl& impl = *impl_;
  impl.temporary.emplace(path,
                         options.force);  // of a live file: until it is complete enough to follow
  impl.path = impl.temporary->name();
  impl.index = index;
  impl.file = h5::create_file(impl.path, options.live);
  write_index(impl.file, index);
  impl.create_axes(index);
  impl.create_tokens(prompt, index.tokens);
  for (const DatasetSpec& spec : datasets) {
    const bool compress = options.compress && !options.live && spec.path.starts_with("reduce/");
    DatasetSpec created = spec;
    if (is_step_series(spec.path)) {
      created.shape[0] = 0;
    }
    Impl::Entry entry{h5::create_dataset(impl.file, created, {is_step_series(spec.path), compress}),
                      spec};
    impl.attach_scales(entry);
    impl.datasets.emplace(spec.path, std::move(entry));
  }
  impl.status.create(impl.file, static_cast<std::int64_t>(index.layers.size()));
  impl.create_dropped(datasets);
  if (!options.live) {
    return;
  }
  h5::require(H5Fflush(impl.file, H5F_SCOPE_GLOBAL) >= 0 && H5Fstart_swmr_write(impl.file) >= 0,
              ErrorCode::io, "the file cannot be opened to readers", path);
  impl.temporary->commit();  // every object exists: the final name from now on
  impl.path = path;
  impl.live = true;
  impl.reserve.emplace(path);
  impl.status.open(path, true);
  impl.status.commit(0, 0);
}

CaptureWriter::~CaptureWriter() {
  stop(CaptureState::error, "the run ended before the capture was finished");
  const Session session;
  impl_.reset();
}

bool CaptureWriter::live() const {
  return impl_->live;
}

void CaptureWriter::write(const std::string& dataset, const std::vector<std::int64_t>& offset,
                          const std::vector<std::int64_t>& count, std::span<const float> values) {
  KVSCOPE_CHECK(h5::elements(count) == static_cast<std::int64_t>(values.size()), ErrorCode::failed,
                fmt::format("{} values for a box of {}", values.size(), h5::extent_text(count)),
                "/" + dataset);
  Impl::Entry& entry = impl_->find(dataset);
  const ElementType stored = entry.spec.type;
  if (stored != ElementType::bf16 && stored != ElementType::f2) {
    const Session session;
    impl_->write_box(entry, offset, count, H5T_NATIVE_FLOAT, values.data());
    return;
  }
  // HDF5's own conversion is slow, and wrong where rounding up carries into the exponent: 0.0624902
  // becomes 0.03125 in float16.
  std::vector<std::uint16_t> bits(values.size());
  for (std::size_t element = 0; element < values.size(); ++element) {
    bits[element] =
        stored == ElementType::f2 ? h5::to_f16(values[element]) : h5::to_bf16(values[element]);
  }
  const Session session;
  const Handle type = h5::disk_type(stored);
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

void CaptureWriter::append_token(std::int32_t id, std::int32_t position, const std::string& piece,
                                 Segment segment) {
  const Session session;
  KVSCOPE_CHECK(impl_->tokens < impl_->index.tokens, ErrorCode::failed,
                fmt::format("the capture was planned for {} tokens", impl_->index.tokens),
                impl_->path, "plan more with --new-tokens");
  impl_->set_token_row(impl_->tokens, id, position, segment, piece);
  ++impl_->tokens;
}

void CaptureWriter::add_dropped(const DroppedRange& range) {
  const Session session;
  impl_->add_dropped(range);
}

void CaptureWriter::set_attribute(const std::string& dataset, const std::string& name,
                                  const std::string& value) {
  const Session session;
  KVSCOPE_CHECK(!impl_->live, ErrorCode::failed, "a live file takes no attributes", impl_->path,
                "set them before the run");
  h5::set_text(dataset.empty() ? impl_->file.get() : impl_->find(dataset).handle.get(), name,
               value);
}

void CaptureWriter::commit(int steps) {
  if (!impl_->live) {
    return;
  }
  const Session session;
  for (auto& [path, entry] : impl_->datasets) {
    if (is_step_series(path) && entry.rows < steps) {
      impl_->set_series_rows(entry, steps);
    }
  }
  impl_->set_step_axis(steps);
  h5::require(H5Fflush(impl_->file, H5F_SCOPE_GLOBAL) >= 0, ErrorCode::io,
              "the file cannot be flushed", impl_->path);
  impl_->status.commit(static_cast<std::uint64_t>(steps), 0);
}

void CaptureWriter::layer_done(int row) {
  impl_->layers_done.push_back(row);
  if (!impl_->live) {
    return;
  }
  const Session session;
  h5::require(H5Fflush(impl_->file, H5F_SCOPE_GLOBAL) >= 0, ErrorCode::io,
              "the file cannot be flushed", impl_->path);
  impl_->status.set_layer_done(row);
}

void CaptureWriter::set_state(CaptureState state) {
  if (impl_->live) {
    impl_->status.set_state(state);
  }
}

void CaptureWriter::finish(int steps, CaptureState state, const std::string& message) {
  Impl& impl = *impl_;
  {
    const Session session;
    for (auto& [path, entry] : impl.datasets) {
      // A live file cannot shrink: readers stop at the committed steps.
      if (is_step_series(path) && (impl.live ? entry.rows < steps : entry.rows != steps)) {
        impl.set_series_rows(entry, steps);
      }
    }
    impl.set_step_axis(steps);
    if (!impl.live) {
      h5::set_number(impl.file, "steps", steps);
    }
    impl.close_file();
  }
  if (!impl.status.is_open()) {
    impl.status.open(impl.path, false);
    for (const int row : impl.layers_done) {
      impl.status.set_layer_done(row);
    }
  }
  if (!message.empty()) {
    impl.status.set_message(message);
  }
  impl.status.commit(static_cast<std::uint64_t>(steps), 0);
  impl.status.set_state(state);
  impl.status.close();
  impl.ended = true;
  if (!impl.live) {
    impl.temporary->commit();
  }
}

void CaptureWriter::stop(CaptureState state, const std::string& message) noexcept {
  Impl& impl = *impl_;
  if (impl.ended || !impl.live) {
    return;
  }
  impl.ended = true;
  impl.reserve.reset();  // on a full disk what follows may need it
  const Session session;
  bool closed = true;
  try {
    impl.close_file();
  } catch (const Error&) {  // a full disk: what was committed is there
    closed = false;
    impl.file.reset();
    H5Eclear2(H5E_DEFAULT);
  }
  try {
    if (!closed) {
      impl.status.restore_superblock();
    }
    impl.status.set_message(message);
    impl.status.set_state(state);
  } catch (const Error&) {  // the ring still tells how much is valid
  }
  impl.status.close();
}

}  // namespace kvscope
