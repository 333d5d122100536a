#pragma once

#include <hdf5.h>

#include <map>
#include <string>
#include <vector>

#include "kvscope/core/spectrum.h"

namespace kvscope::h5 {

/// Variable-length UTF-8 strings as a dataset of any extent.
void store_texts(hid_t file, const std::string& path, const std::vector<std::int64_t>& shape,
                 const std::vector<std::string>& texts);
/// Throws Error{corrupt_file} unless it holds `count` strings, variable-length or fixed.
std::vector<std::string> load_texts(hid_t file, const std::string& path, std::size_t count);

/// /claims/table: one compound record a claim. Nothing is written without claims.
void store_claims(hid_t file, const std::vector<SpectrumClaim>& claims);
std::vector<SpectrumClaim> load_claims(hid_t file);

/// Attributes of an object: texts, numbers, lists of numbers.
using Attributes = std::map<std::string, SpectrumAttribute>;
void store_attributes(hid_t object, const Attributes& attributes);
/// All of an object's attributes but those HDF5 and every dataset of ours have.
Attributes load_attributes(hid_t object);
/// Paths of all groups below the root, sorted.
std::vector<std::string> list_groups(hid_t file);

}  // namespace kvscope::h5
