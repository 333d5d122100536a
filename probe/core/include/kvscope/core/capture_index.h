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
  std::vector<int> layers;   ///< true indices of the captured layers
  std::vector<int> windows;  ///< observation windows, ascending; the largest has the plain names
  int tokens = 0;            ///< prompt tokens + planned new ones
  int prompt_tokens = 0;
  int context_tokens = 0;
  int steps = 0;        ///< decode steps written
  int first_query = 0;  ///< first prompt query whose Q is stored; prompt_tokens if none
  int state = 4;        ///< /status/state: 4 = done
  std::string message;  ///< the run's last word, if it did not end well
};

}  // namespace kvscope
