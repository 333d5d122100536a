#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/core/shape.h"

namespace kvscope {

/// How much of a run is written down. Each contains the ones before it, but for `full`'s storage of
/// Q.
enum class Profile { window, scores, qkv, full };

const char* profile_name(Profile profile);
/// Throws Error{usage} with the nearest name.
Profile parse_profile(const std::string& text);

/// What a capture says about itself: the root attributes and axes, without any tensor.
struct CaptureIndex {
  std::string path;
  int version_major = 1;
  int version_minor = 0;
  std::string created_by;
  std::string created_utc;
  std::string model_name;
  std::string model_hash;
  std::string architecture;
  std::string weights_dtype;
  std::string compute_dtype;
  std::string cache_dtype;
  std::string device;
  std::string attention_kernel;
  std::string attached_to = "own";
  std::string method = "full";
  std::string budget;
  std::string request_json;
  std::string sampling_json;  ///< how new tokens were drawn; empty without any
  std::string torch;          ///< version of the tensor library
  /// JSON {"total": n, "tensors": {name: n}} of weights that are NaN or infinite; empty = none.
  std::string nonfinite_weights;
  std::string notes;  ///< what a reader should know about how the file came about; may be empty
  std::string capture_hash;  ///< sequence_hash of model and prompt; what decisions refer to
  Profile profile = Profile::window;
  ModelShape shape;
  std::vector<int> layers;       ///< true indices of the captured layers
  std::vector<int> query_heads;  ///< likewise; empty = all
  std::vector<int> kv_heads;     ///< likewise; empty = all
  std::vector<int> windows;  ///< observation windows, ascending; the largest has the plain names
  int tokens = 0;            ///< prompt tokens + planned new ones
  int prompt_tokens = 0;
  int context_tokens = 0;
  int steps = 0;                  ///< decode steps written: rows of /steps
  std::vector<int> step_numbers;  ///< which decode steps these are, from 1; empty = each in turn
  std::vector<int> hook_tokens;   ///< prompt tokens whose hook points are stored
  int first_query = 0;            ///< first prompt query whose Q is stored; prompt_tokens if none
  int state = 4;                  ///< /status/state: 4 = done
  std::string message;            ///< the run's last word, if it did not end well

  int stored_query_heads() const {
    return query_heads.empty() ? shape.query_heads : static_cast<int>(query_heads.size());
  }
  int stored_kv_heads() const {
    return kv_heads.empty() ? shape.kv_heads : static_cast<int>(kv_heads.size());
  }
  bool all_heads() const {
    return stored_query_heads() == shape.query_heads && stored_kv_heads() == shape.kv_heads;
  }
  /// Whether rows of /steps are steps 1, 2, 3...
  bool every_step() const {
    return step_numbers.empty() || step_numbers.back() == static_cast<int>(step_numbers.size());
  }
};

/// Throws Error{missing_data} if the capture left heads out: what compares heads needs all of them.
void require_all_heads(const CaptureIndex& index);

}  // namespace kvscope
