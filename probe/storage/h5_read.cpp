#include <fmt/format.h>

#include <algorithm>

#include "h5.h"

namespace kvscope::h5 {

void require_written(hid_t dataset, ElementType type, const Extent& extent,
                     const std::string& path) {
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  constexpr double best_ratio = 1100;  // of deflate
  const double ratio = H5Pget_nfilters(properties) > 0 ? best_ratio : 1;
  const auto stored = static_cast<double>(H5Dget_storage_size(dataset));
  hsize_t file_bytes = 0;
  const Handle file(H5Iget_file_id(dataset), H5Fclose);
  H5Fget_filesize(file, &file_bytes);
  const double bytes =
      static_cast<double>(elements(extent)) * static_cast<double>(element_bytes(type));
  KVSCOPE_CHECK(bytes <= ratio * std::min(stored, static_cast<double>(file_bytes)),
                ErrorCode::corrupt_file,
                fmt::format("the dataset claims {} bytes, the file holds {}", bytes, stored),
                "/" + path, "copy the file again, or make it anew");
}

std::vector<std::int32_t> first_rows(hid_t file, const char* name, std::int64_t rows) {
  if (rows == 0) {
    return {};
  }
  const Handle table = h5::open_dataset(file, name);
  h5::require_written(table, ElementType::i4, {rows}, name);
  std::vector<std::int32_t> values(static_cast<std::size_t>(rows));
  const hsize_t first = 0;
  const auto count = static_cast<hsize_t>(rows);
  const Handle space(H5Dget_space(table), H5Sclose);
  const Handle box(H5Screate_simple(1, &count, nullptr), H5Sclose);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, &first, nullptr, &count, nullptr);
  h5::require(H5Dread(table, H5T_NATIVE_INT32, box, space, H5P_DEFAULT, values.data()) >= 0,
              ErrorCode::corrupt_file, "the table cannot be read", fmt::format("/{}", name));
  return values;
}

void read_boxes(hid_t dataset, const std::string& path,
                const std::function<void(std::span<const float>)>& visit) {
  const Session session;
  const Extent whole = extent(dataset, path);
  constexpr std::int64_t most = std::int64_t{1} << 20;
  std::vector<hsize_t> size(whole.begin(), whole.end());
  std::int64_t box_elements = elements(whole);
  for (std::size_t axis = 0; axis < size.size() && box_elements > most; ++axis) {
    const std::int64_t row = box_elements / static_cast<std::int64_t>(size[axis]);
    size[axis] =
        static_cast<hsize_t>(std::max<std::int64_t>(1, most / std::max<std::int64_t>(row, 1)));
    box_elements = row * static_cast<std::int64_t>(size[axis]);
  }
  if (elements(whole) == 0) {
    return;
  }
  std::vector<float> values(static_cast<std::size_t>(box_elements));
  std::vector<hsize_t> first(size.size(), 0);
  const Handle space(H5Dget_space(dataset), H5Sclose);
  for (bool more = true; more;) {
    std::vector<hsize_t> count = size;
    std::size_t cells = 1;
    for (std::size_t axis = 0; axis < count.size(); ++axis) {
      count[axis] = std::min<hsize_t>(size[axis], static_cast<hsize_t>(whole[axis]) - first[axis]);
      cells *= static_cast<std::size_t>(count[axis]);
    }
    const int rank = static_cast<int>(count.size());
    const Handle box(
        rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, count.data(), nullptr),
        H5Sclose);
    if (rank > 0) {
      H5Sselect_hyperslab(space, H5S_SELECT_SET, first.data(), nullptr, count.data(), nullptr);
    }
    require(H5Dread(dataset, H5T_NATIVE_FLOAT, box, space, H5P_DEFAULT, values.data()) >= 0,
            ErrorCode::corrupt_file, "the dataset cannot be read", "/" + path);
    visit(std::span(values.data(), cells));
    more = false;
    for (std::size_t axis = count.size(); axis-- > 0 && !more;) {
      first[axis] += size[axis];
      more = first[axis] < static_cast<hsize_t>(whole[axis]);
      first[axis] = more ? first[axis] : 0;
    }
  }
}

}  // namespace kvscope::h5
