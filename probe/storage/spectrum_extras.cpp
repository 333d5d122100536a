#include "spectrum_extras.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <iterator>

#include "attributes.h"
#include "h5.h"

namespace kvscope::h5 {
namespace {

constexpr std::size_t most_texts = std::size_t{1} << 20;

Handle text_type() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

Handle group_chain() {
  Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  return links;
}

/// A claim as it lies in memory while the library reads or writes it.
struct ClaimRecord {
  const char* name;
  const char* statement;
  double statistic;
  double lo;
  double hi;
  double p;
  std::int32_t n;
  const char* verdict;
};

Handle claim_type() {
  const Handle text = text_type();
  Handle type(H5Tcreate(H5T_COMPOUND, sizeof(ClaimRecord)), H5Tclose);
  H5Tinsert(type, "name", offsetof(ClaimRecord, name), text);
  H5Tinsert(type, "statement", offsetof(ClaimRecord, statement), text);
  H5Tinsert(type, "statistic", offsetof(ClaimRecord, statistic), H5T_NATIVE_DOUBLE);
  H5Tinsert(type, "lo", offsetof(ClaimRecord, lo), H5T_NATIVE_DOUBLE);
  H5Tinsert(type, "hi", offsetof(ClaimRecord, hi), H5T_NATIVE_DOUBLE);
  H5Tinsert(type, "p", offsetof(ClaimRecord, p), H5T_NATIVE_DOUBLE);
  H5Tinsert(type, "n", offsetof(ClaimRecord, n), H5T_NATIVE_INT32);
  H5Tinsert(type, "verdict", offsetof(ClaimRecord, verdict), text);
  return type;
}

std::string text_or_empty(const char* text) {
  return text == nullptr ? std::string() : std::string(text);
}

std::size_t points_of(hid_t dataset, const std::string& path) {
  const std::int64_t count = elements(extent(dataset, path));
  KVSCOPE_CHECK(count >= 0 && static_cast<std::size_t>(count) <= most_texts,
                ErrorCode::corrupt_file, "the dataset claims an impossible size", "/" + path);
  return static_cast<std::size_t>(count);
}

herr_t collect_attribute(hid_t, const char* name, const H5A_info_t*, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

herr_t collect_group(hid_t, const char* name, const H5O_info_t* info, void* names) {
  if (info->type == H5O_TYPE_GROUP && std::strcmp(name, ".") != 0) {
    static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  }
  return 0;
}

}  // namespace

void store_texts(hid_t file, const std::string& path, const std::vector<std::int64_t>& shape,
                 const std::vector<std::string>& texts) {
  const Session session;
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  const Handle space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
                     H5Sclose);
  const Handle type = text_type();
  const Handle links = group_chain();
  const Handle dataset(H5Dcreate2(file, path.c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT),
                       H5Dclose);
  require(static_cast<bool>(dataset), ErrorCode::failed, "the dataset cannot be created",
          "/" + path);
  std::vector<const char*> pointers;
  for (const std::string& text : texts) {
    pointers.push_back(text.c_str());
  }
  if (!pointers.empty()) {
    write_all(dataset, path, type, pointers.data());
  }
}

std::vector<std::string> load_texts(hid_t file, const std::string& path, std::size_t count) {
  const Session session;
  const Handle dataset = open_dataset(file, path);
  const Handle stored(H5Dget_type(dataset), H5Tclose);
  KVSCOPE_CHECK(H5Tget_class(stored) == H5T_STRING && H5Tis_variable_str(stored) > 0 &&
                    points_of(dataset, path) == count,
                ErrorCode::corrupt_file, fmt::format("these are not {} strings", count),
                "/" + path);
  std::vector<std::string> texts(count);
  if (count == 0) {
    return texts;
  }
  std::vector<char*> pointers(count, nullptr);
  const Handle type = text_type();
  require(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, pointers.data()) >= 0,
          ErrorCode::corrupt_file, "the dataset cannot be read", "/" + path);
  std::transform(pointers.begin(), pointers.end(), texts.begin(), text_or_empty);
  const Handle space(H5Dget_space(dataset), H5Sclose);
  H5Dvlen_reclaim(type, space, H5P_DEFAULT, pointers.data());
  return texts;
}

void store_claims(hid_t file, const std::vector<SpectrumClaim>& claims) {
  if (claims.empty()) {
    return;
  }
  const Session session;
  std::vector<ClaimRecord> records;
  for (const SpectrumClaim& claim : claims) {
    records.push_back({claim.name.c_str(), claim.statement.c_str(), claim.statistic, claim.low,
                       claim.high, claim.p, claim.count, claim.verdict.c_str()});
  }
  const hsize_t count = records.size();
  const Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const Handle type = claim_type();
  const Handle links = group_chain();
  const std::string path = "claims/table";
  const Handle dataset(H5Dcreate2(file, path.c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT),
                       H5Dclose);
  require(static_cast<bool>(dataset), ErrorCode::failed, "the dataset cannot be created",
          "/" + path);
  set_text(dataset, "long_name", "statements as statistics with a 95 % interval lo..hi");
  set_text(dataset, "units", "1");
  write_all(dataset, path, type, records.data());
}

std::vector<SpectrumClaim> load_claims(hid_t file) {
  const Session session;
  const std::string path = "claims/table";
  if (!exists(file, path)) {
    return {};
  }
  const Handle dataset = open_dataset(file, path);
  const Handle stored(H5Dget_type(dataset), H5Tclose);
  KVSCOPE_CHECK(H5Tget_class(stored) == H5T_COMPOUND, ErrorCode::corrupt_file,
                "the claims are no compound records", "/" + path);
  std::vector<ClaimRecord> records(points_of(dataset, path), ClaimRecord{});
  if (records.empty()) {
    return {};
  }
  const Handle type = claim_type();
  require(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, records.data()) >= 0,
          ErrorCode::corrupt_file, "the claims cannot be read", "/" + path);
  std::vector<SpectrumClaim> claims;
  for (const ClaimRecord& record : records) {
    claims.push_back({text_or_empty(record.name), text_or_empty(record.statement), record.statistic,
                      record.lo, record.hi, record.p, record.n, text_or_empty(record.verdict)});
  }
  const Handle space(H5Dget_space(dataset), H5Sclose);
  H5Dvlen_reclaim(type, space, H5P_DEFAULT, records.data());
  return claims;
}

void store_attributes(hid_t object, const Attributes& attributes) {
  for (const auto& [name, value] : attributes) {
    if (const auto* text = std::get_if<std::string>(&value)) {
      set_text(object, name, *text);
    } else if (const auto* number = std::get_if<double>(&value)) {
      set_real(object, name, *number);
    } else {
      set_reals(object, name, std::get<std::vector<double>>(value));
    }
  }
}

Attributes load_attributes(hid_t object) {
  static constexpr std::array<const char*, 9> ours = {
      "units",          "long_name",     "formula", "DIMENSION_LABELS", "DIMENSION_LIST", "CLASS",
      "REFERENCE_LIST", "_Netcdf4Dimid", "NAME"};
  const Session session;
  std::vector<std::string> names;
  H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_attribute, &names);
  Attributes attributes;
  for (const std::string& name : names) {
    if (std::find(ours.begin(), ours.end(), name) != ours.end()) {
      continue;
    }
    const Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose);
    const Handle type(attribute ? H5Aget_type(attribute) : H5I_INVALID_HID, H5Tclose);
    const Handle space(attribute ? H5Aget_space(attribute) : H5I_INVALID_HID, H5Sclose);
    const H5T_class_t kind = type ? H5Tget_class(type) : H5T_NO_CLASS;
    if (kind == H5T_STRING && H5Tis_variable_str(type) == 0) {
      attributes[name] = get_text(object, name);
    } else if (kind == H5T_INTEGER || kind == H5T_FLOAT) {
      const bool single = H5Sget_simple_extent_ndims(space) == 0;
      attributes[name] = single ? SpectrumAttribute(get_real(object, name, 0))
                                : SpectrumAttribute(get_reals(object, name));
    }
  }
  return attributes;
}

std::vector<std::string> list_groups(hid_t file) {
  const Session session;
  std::vector<std::string> names;
  require(H5Ovisit(file, H5_INDEX_NAME, H5_ITER_NATIVE, collect_group, &names) >= 0,
          ErrorCode::corrupt_file, "the list of groups cannot be read", "/");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace kvscope::h5
