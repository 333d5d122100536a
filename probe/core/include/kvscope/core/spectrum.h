#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace kvscope {

/// A dense float64 table with named axes; NaN = missing.
struct SpectrumTable {
  std::vector<int> shape;
  std::vector<std::string> axes;  ///< one name per dimension
  std::vector<double> values;
  std::string units;
  std::string long_name;
  std::string formula;
};

/// Status of one projection matrix; the values are those on disk.
enum class SpectrumStatus : std::uint8_t {
  ok = 0,
  missing = 1,
  nonfinite = 2,
  zero = 3,
  negative_eigenvalue = 4,
  no_convergence = 5,
  unsupported_dtype = 6,
  bad_shape = 7,
  skipped_by_user = 8,
};

/// Attribute of a table, a group or the file: a text, a number or a list of numbers.
using SpectrumAttribute = std::variant<std::string, double, std::vector<double>>;

/// One statement about a model, as a statistic that can come out against it
/// (specs/spectral.md 4.5).
struct SpectrumClaim {
  std::string name;       ///< e.g. "v_more_dispersed_by_layer"
  std::string statement;  ///< in words, true or not
  double statistic = 0;   ///< a share in [0, 1], or a rank correlation in [-1, 1]
  double low = 0;         ///< 95 % interval
  double high = 0;
  double p = 1;         ///< of a statistic this far from chance in the claimed direction
  int count = 0;        ///< layers, heads or pairs that entered
  std::string verdict;  ///< "holds", "fails", "undecided" or "no data"
};

/// What `kvscope spectral` computed, keyed by the HDF5 path of specs/spectral.md 8.2
/// (for example "spectrum/layer/q/eigenvalues", "metrics/head/k/erank_rel", "asymmetry/A_KV").
struct Spectrum {
  std::string model_name;
  std::string model_hash;
  std::string weights_dtype;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int hidden_dim = 0;
  std::vector<int> layers;               ///< true indices
  std::vector<std::string> projections;  ///< "q", "k", "v", "o"
  std::map<std::string, SpectrumTable> tables;
  std::vector<SpectrumStatus> status;  ///< [layers, projections]
  std::vector<std::string> message;    ///< [layers, projections]
  std::vector<SpectrumClaim> claims;
  /// By path of the table or group ("" is the file itself), then by name.
  std::map<std::string, std::map<std::string, SpectrumAttribute>> attributes;

  const SpectrumTable* find(const std::string& path) const {
    auto found = tables.find(path);
    return found == tables.end() ? nullptr : &found->second;
  }
};

}  // namespace kvscope
