#pragma once

#include <string>

#include "command.h"
#include "kvscope/capture/rates.h"
#include "kvscope/capture/request.h"
#include "kvscope/core/tokens.h"
#include "kvscope/model/model_file.h"
#include "prompt_options.h"

namespace kvscope::cli {

/// What the price of a capture depends on.
struct PriceInput {
  const ModelFile& model;
  int prompt_tokens = 0;
  int chunk = 0;  ///< tokens of one pass; 0 = all
  const CommonOptions& common;
  const ComputeOptions& compute;
  std::string output;
  bool yes = false;  ///< large captures, and more memory than seems free, are confirmed
};

CapturePrice price_of(const CaptureRequest& request, const PriceInput& input);

/// `text` as a profile; if it is empty, `qkv` if that is priced under 1 GiB, else `window`, said.
Profile choose_profile(const std::string& text, const CaptureRequest& request,
                       const PriceInput& input);

/// Says what the request costs in bytes and, from rates measured now, in seconds. Throws
/// Error{usage} above 32 GiB unless confirmed, Error{io | failed} if disk or memory lack room.
/// Nothing is loaded yet.
CaptureTime confirm_price(const CaptureRequest& request, const PriceInput& input);

}  // namespace kvscope::cli
