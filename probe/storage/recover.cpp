#include "kvscope/storage/recover.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "attributes.h"
#include "h5.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope {
namespace {

using h5::Extent;
using h5::Handle;
using h5::Session;

/// Tables that CaptureWriter makes itself.
bool made_by_writer(const std::string& path) {
  return path.starts_with("axes/") || path.starts_with("tokens/") || path.starts_with("status/");
}

Extent chunk_of(hid_t dataset, std::size_t rank) {
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  if (H5Pget_layout(properties) != H5D_CHUNKED) {
    return {};
  }
  std::vector<hsize_t> chunk(rank);
  h5::require(H5Pget_chunk(properties, static_cast<int>(rank), chunk.data()) >= 0,
              ErrorCode::corrupt_file, "the dataset's chunks cannot be read", "/");
  return {chunk.begin(), chunk.end()};
}

/// The dataset as it was announced, with `steps` rows if it is a series.
DatasetSpec spec_of(hid_t file, const std::string& path, int steps) {
  const Handle dataset = h5::open_dataset(file, path);
  const Handle type(H5Dget_type(dataset), H5Tclose);
  DatasetSpec spec;
  spec.path = path;
  spec.type = h5::element_type(type, "/" + path);
  spec.shape = h5::extent(dataset, path);
  spec.chunk = chunk_of(dataset, spec.shape.size());
  if (path.starts_with("steps/")) {
    spec.shape[0] = steps;
  }
  spec.labels = h5::axis_names(dataset, spec.shape.size());
  spec.units = h5::get_text(dataset, "units");
  spec.long_name = h5::get_text(dataset, "long_name");
  spec.formula = h5::get_text(dataset, "formula");
  spec.queries = h5::get_text(dataset, "queries");
  spec.group_reduce = h5::get_text(dataset, "group_reduce");
  spec.kernel = h5::get_text(dataset, "kernel");
  const std::int64_t first_query = h5::get_number(dataset, "first_query", -1);
  if (first_query >= 0) {
    spec.numbers = {{"first_query", first_query}};
  }
  return spec;
}

/// Copies the first `spec.shape` cells, one index of the first axis at a time.
template <typename T>
void copy_rows(hid_t source, const DatasetSpec& spec, CaptureWriter& writer) {
  Extent count = spec.shape;
  count[0] = 1;
  std::vector<T> row(static_cast<std::size_t>(h5::elements(count)));
  std::vector<hsize_t> size(count.begin(), count.end());
  const Handle space(H5Dget_space(source), H5Sclose);
  const Handle box(H5Screate_simple(static_cast<int>(size.size()), size.data(), nullptr), H5Sclose);
  for (std::int64_t index = 0; index < spec.shape[0]; ++index) {
    Extent offset(count.size(), 0);
    offset[0] = index;
    const std::vector<hsize_t> first(offset.begin(), offset.end());
    H5Sselect_hyperslab(space, H5S_SELECT_SET, first.data(), nullptr, size.data(), nullptr);
    h5::require(H5Dread(source, h5::native<T>(), box, space, H5P_DEFAULT, row.data()) >= 0,
                ErrorCode::corrupt_file, "the dataset cannot be read", "/" + spec.path);
    writer.write(spec.path, offset, count, std::span<const T>(row));
  }
}

void copy_dataset(hid_t file, const DatasetSpec& spec, CaptureWriter& writer) {
  if (h5::elements(spec.shape) == 0) {
    return;
  }
  const Handle source = h5::open_dataset(file, spec.path);
  if (spec.type == ElementType::i8 || spec.type == ElementType::u8) {
    copy_rows<std::int64_t>(source, spec, writer);
  } else if (spec.type == ElementType::i4 || spec.type == ElementType::u1) {
    copy_rows<std::int32_t>(source, spec, writer);
  } else {
    copy_rows<float>(source, spec, writer);  // 16-bit floats are exact in it
  }
}

TokenTable prompt_of(const TokenTable& tokens) {
  TokenTable prompt;
  for (int token = 0; token < tokens.prompt_tokens; ++token) {
    const auto at = static_cast<std::size_t>(token);
    prompt.append(tokens.id[at], tokens.position[at], tokens.segment[at], tokens.text(token));
  }
  prompt.prompt_tokens = tokens.prompt_tokens;
  prompt.context_tokens = tokens.context_tokens;
  return prompt;
}

}  // namespace

Recovered recover_capture(const std::string& path, const std::string& output, bool force) {
  const Session session;
  KVSCOPE_CHECK(!being_written(path), ErrorCode::usage, "the capture is still being written", path,
                "wait for its end; readers may follow it meanwhile");
  const CaptureReader reader(path);
  const CaptureIndex& index = reader.index();
  KVSCOPE_CHECK(index.state != static_cast<int>(CaptureState::done), ErrorCode::usage,
                "the capture is complete: there is nothing to recover", path, "use it as it is");
  const Handle file = h5::open_file(path);
  std::vector<DatasetSpec> specs;
  for (const std::string& name : reader.datasets()) {
    if (!made_by_writer(name)) {
      specs.push_back(spec_of(file, name, index.steps));
    }
  }
  Recovered recovered;
  recovered.steps = index.steps;
  recovered.layers = static_cast<int>(index.layers.size());
  recovered.state = index.state;
  CaptureWriter writer(output, index, prompt_of(reader.tokens()), specs, {force, false, false});
  for (const DatasetSpec& spec : specs) {
    copy_dataset(file, spec, writer);
  }
  const TokenTable& tokens = reader.tokens();
  for (int token = tokens.prompt_tokens; token < tokens.size(); ++token) {
    const auto at = static_cast<std::size_t>(token);
    writer.append_token(tokens.id[at], tokens.position[at], tokens.text(token));
  }
  for (int row = 0; row < recovered.layers; ++row) {
    if (reader.layer_done(row)) {
      writer.layer_done(row);
      ++recovered.layers_done;
    }
  }
  const bool running = index.state < static_cast<int>(CaptureState::done);
  writer.finish(index.steps,
                running ? CaptureState::error : static_cast<CaptureState>(index.state));
  return recovered;
}

}  // namespace kvscope
