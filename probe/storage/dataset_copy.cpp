#include "dataset_copy.h"

#include <algorithm>

#include "attributes.h"
#include "kvscope/core/error.h"

namespace kvscope::h5 {
namespace {

constexpr std::int64_t box_cells = std::int64_t{1} << 20;

Extent chunk_of(hid_t dataset, std::size_t rank) {
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  if (H5Pget_layout(properties) != H5D_CHUNKED) {
    return {};
  }
  std::vector<hsize_t> chunk(rank);
  require(H5Pget_chunk(properties, static_cast<int>(rank), chunk.data()) >= 0,
          ErrorCode::corrupt_file, "the dataset's chunks cannot be read", "/");
  return {chunk.begin(), chunk.end()};
}

/// One box from `from` in the source to `to` in the copy.
template <typename T>
void copy_box(hid_t source, const std::string& path, const Extent& from, const Extent& to,
              const Extent& count, CaptureWriter& writer) {
  std::vector<T> values(static_cast<std::size_t>(elements(count)));
  const std::vector<hsize_t> first(from.begin(), from.end());
  const std::vector<hsize_t> size(count.begin(), count.end());
  const Handle space(H5Dget_space(source), H5Sclose);
  const Handle box(H5Screate_simple(static_cast<int>(size.size()), size.data(), nullptr), H5Sclose);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, first.data(), nullptr, size.data(), nullptr);
  require(H5Dread(source, native<T>(), box, space, H5P_DEFAULT, values.data()) >= 0,
          ErrorCode::corrupt_file, "the dataset cannot be read", "/" + path);
  writer.write(path, to, count, std::span<const T>(values));
}

/// Splits the box along its first axis, where that is not the picked one, until it is small.
template <typename T>
void copy_boxes(hid_t source, const std::string& path, const Part& part, const Extent& from,
                const Extent& to, const Extent& count, CaptureWriter& writer) {
  const std::int64_t row =
      std::max<std::int64_t>(1, elements(count) / std::max<std::int64_t>(count[0], 1));
  const std::int64_t rows = part.picked_axis == 0 ? 1 : std::max<std::int64_t>(1, box_cells / row);
  for (std::int64_t done = 0; done < count[0]; done += rows) {
    Extent at = from;
    Extent target = to;
    Extent size = count;
    at[0] += done;
    target[0] += done;
    size[0] = std::min(rows, count[0] - done);
    copy_box<T>(source, path, at, target, size, writer);
  }
}

template <typename T>
void copy_all(hid_t source, const std::string& path, const Part& part, CaptureWriter& writer) {
  const Extent origin(part.count.size(), 0);
  if (part.picked_axis < 0) {
    copy_boxes<T>(source, path, part, part.first, origin, part.count, writer);
    return;
  }
  const auto axis = static_cast<std::size_t>(part.picked_axis);
  for (std::size_t index = 0; index < part.picked.size(); ++index) {
    Extent from = part.first;
    Extent to = origin;
    Extent count = part.count;
    from[axis] = part.picked[index];
    to[axis] = static_cast<std::int64_t>(index);
    count[axis] = 1;
    copy_boxes<T>(source, path, part, from, to, count, writer);
  }
}

}  // namespace

bool made_by_writer(const std::string& path) {
  return path.starts_with("axes/") || path.starts_with("tokens/") || path.starts_with("status/");
}

DatasetSpec spec_of(hid_t file, const std::string& path) {
  const Handle dataset = open_dataset(file, path);
  const Handle type(H5Dget_type(dataset), H5Tclose);
  DatasetSpec spec;
  spec.path = path;
  spec.type = element_type(type, "/" + path);
  spec.shape = extent(dataset, path);
  spec.chunk = chunk_of(dataset, spec.shape.size());
  spec.labels = axis_names(dataset, spec.shape.size());
  spec.units = get_text(dataset, "units");
  spec.long_name = get_text(dataset, "long_name");
  spec.formula = get_text(dataset, "formula");
  spec.queries = get_text(dataset, "queries");
  spec.group_reduce = get_text(dataset, "group_reduce");
  spec.kernel = get_text(dataset, "kernel");
  for (const char* name : {"first_query", "stride", "offset"}) {
    const std::int64_t number = get_number(dataset, name, -1);
    if (number >= 0) {
      spec.numbers.emplace_back(name, number);
    }
  }
  return spec;
}

Part whole_of(const Extent& extent) {
  return {Extent(extent.size(), 0), extent, -1, {}};
}

void copy_part(hid_t file, const std::string& path, ElementType type, const Part& part,
               CaptureWriter& writer) {
  if (part.count.empty() || elements(part.count) == 0) {
    return;
  }
  const Session session;
  const Handle source = open_dataset(file, path);
  if (type == ElementType::i8 || type == ElementType::u8) {
    copy_all<std::int64_t>(source, path, part, writer);
  } else if (type == ElementType::i4 || type == ElementType::u1) {
    copy_all<std::int32_t>(source, path, part, writer);
  } else {
    copy_all<float>(source, path, part, writer);  // 16-bit floats are exact in it
  }
}

TokenTable prompt_of(const TokenTable& tokens, int prompt_tokens) {
  TokenTable prompt;
  for (int token = 0; token < prompt_tokens; ++token) {
    const auto at = static_cast<std::size_t>(token);
    prompt.append(tokens.id[at], tokens.position[at], tokens.segment[at], tokens.text(token));
  }
  prompt.prompt_tokens = prompt_tokens;
  prompt.context_tokens = std::min(tokens.context_tokens, prompt_tokens);
  return prompt;
}

}  // namespace kvscope::h5
