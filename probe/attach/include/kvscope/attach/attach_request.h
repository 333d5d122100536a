#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvscope/capture/request.h"
#include "kvscope/core/capture_index.h"
#include "kvscope/core/tokens.h"

namespace kvscope {

/// What is to be written down of another program's run, and what that program says of its model.
struct AttachRequest {
  std::string path;                ///< NAME.capture.h5
  std::optional<Profile> profile;  ///< none: qkv if it is priced under 1 GiB, else window
  CaptureRequest capture;      ///< but for profile, layers and hook tokens, which need the prompt
  std::string layers = "all";  ///< as `select_numbers` takes it
  bool confirmed = false;      ///< take more than 32 GiB, or more memory than is free
  bool live_on_network = false;
  CaptureIndex model;  ///< names, types and shape; what a run knows of itself is filled in later
};

/// Reads a request from JSON: {"path", "profile", "windows", "layers", ..., "model": {...}}; names
/// as in `CaptureRequest` and `CaptureIndex`. Throws Error{usage} naming the field that is missing,
/// of another type, unknown or out of range.
AttachRequest parse_attach_request(const std::string& json);

/// The request for a prompt: profile, layers and hook tokens are chosen, the price is compared with
/// what the disk and the memory have left. Returns the header of the file. `notes` receives what
/// the user should be told. Throws Error{usage | io | failed}.
CaptureIndex settle(AttachRequest& request, const TokenTable& prompt,
                    std::vector<std::string>& notes);

}  // namespace kvscope
