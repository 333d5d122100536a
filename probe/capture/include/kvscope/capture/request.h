#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvscope/core/capture_index.h"
#include "kvscope/storage/capture_writer.h"

namespace kvscope {

/// What is to be written down of a run.
struct CaptureRequest {
  Profile profile = Profile::window;
  std::vector<int> windows = {32, 64};  ///< observation windows, ascending
  std::vector<int> layers;              ///< true indices; empty = all
  int stored_queries = 1024;            ///< newest prompt queries kept by `qkv`
  int new_tokens = 0;                   ///< planned decode steps
  bool attention_maps = false;          ///< whole maps [query_heads, n, n] of the chosen layers
  int top_keys = 0;                     ///< most attended keys kept of every prompt query; 0 = none
  int pooled_block = 0;  ///< side of the finest block of pooled maps, in tokens; 0 = none
  bool compress = false;
  bool force = false;
  bool never_drop = false;  ///< wait for the disk, however long, rather than thin out series
  bool drop_bulk = false;   ///< leave tensors out rather than wait for the disk
  bool live = false;        ///< others may follow the file while it grows; it outlives a killed run
};

/// What a request costs, before the run.
struct CapturePrice {
  std::int64_t disk_bytes = 0;
  std::int64_t memory_bytes = 0;  ///< beyond weights and cache
  double extra_flop = 0;          ///< statistics passes
};
CapturePrice price_capture(const CaptureRequest& request, const ModelShape& shape,
                           int prompt_tokens, ElementType cache_type);

/// Every dataset of the request, ready for CaptureWriter.
std::vector<DatasetSpec> capture_datasets(const CaptureRequest& request, const ModelShape& shape,
                                          int prompt_tokens, ElementType cache_type);

/// The request as JSON, stored verbatim in the file.
std::string request_json(const CaptureRequest& request);

}  // namespace kvscope
