#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace kvscope {

/// One named array of a calibration; the first axis is layers, the second heads of one kind.
struct CalibrationArray {
  std::vector<std::int64_t> shape;
  std::vector<std::string> axes;  ///< name of each axis, e.g. "layer", "query_head", "band"
  std::string units;
  std::string long_name;
  std::string formula;
  std::vector<float> values;  ///< row-major
};

/// What was measured of a model on a text before any prompt is seen: statistics per layer and head
/// that methods such as TriAttention read. Band f of a head is the pair of channels f and f +
/// bands, which the rotary embedding turns together; vectors are those that enter the rotation.
///   queries/mean_real, queries/mean_imaginary  [layers, query_heads, bands] E[q_f]
///   queries/mean_abs                           [layers, query_heads, bands] E|q_f|
///   queries/concentration                      [layers, query_heads, bands] |E[q_f]| / E|q_f|
///   queries/head_concentration                 [layers, query_heads] |E q| / E|q| of the whole
///   head keys/...                                   the same of keys, [layers, kv_heads, ...]
///   queries/filter  [layers, kv_heads, head_dim] main direction of the rotated queries (Q-Filters)
struct Calibration {
  std::string model_name;
  std::string model_hash;   ///< of the weights it was measured on
  std::string corpus_hash;  ///< 16 hex digits over the text's token ids
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  std::int64_t tokens = 0;  ///< averaged over
  int window = 0;           ///< longest text read at once, in tokens
  std::map<std::string, CalibrationArray> arrays;

  /// The array, or null.
  const CalibrationArray* find(const std::string& name) const {
    const auto found = arrays.find(name);
    return found == arrays.end() ? nullptr : &found->second;
  }
};

}  // namespace kvscope
