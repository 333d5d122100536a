#include "kvscope/capture/request.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "datasets.h"
#include "kvscope/core/error.h"

namespace kvscope {
namespace {

std::int64_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::f2:
    case ElementType::bf16:
      return 2;
    case ElementType::u1:
      return 1;
    case ElementType::f8:
    case ElementType::i8:
    case ElementType::u8:
      return 8;
    default:
      return 4;
  }
}

}  // namespace

CapturePrice price_capture(const CaptureRequest& request, const ModelShape& shape,
                           int prompt_tokens, ElementType cache_type) {
  CapturePrice price;
  for (const DatasetSpec& spec : capture_datasets(request, shape, prompt_tokens, cache_type)) {
    std::int64_t bytes = element_bytes(spec.type);
    for (const std::int64_t size : spec.shape) {
      bytes *= size;
    }
    price.disk_bytes += bytes;
  }
  const std::int64_t tokens = prompt_tokens;
  price.disk_bytes += 40 * (tokens + request.new_tokens) + (std::int64_t{1} << 16);
  const std::int64_t plane = shape.query_heads * tokens * 4;
  const std::int64_t columns = request.profile == Profile::window ? 4 : 8;
  price.memory_bytes = plane * (columns + 3 * static_cast<std::int64_t>(request.windows.size())) +
                       tokens * (shape.query_heads + 3 * shape.kv_heads) * shape.head_dim * 4 +
                       detail::queue_limit_bytes;
  const double layers = static_cast<double>(
      request.layers.empty() ? static_cast<std::size_t>(shape.layers) : request.layers.size());
  const double window = request.windows.empty() ? 1 : request.windows.back();
  const double rows = request.profile == Profile::window ? window : static_cast<double>(tokens) / 2;
  price.extra_flop =
      layers * 2.0 * shape.query_heads * rows * static_cast<double>(tokens) * shape.head_dim;
  if (request.attention_maps || request.top_keys > 0 || request.pooled_block > 0) {
    price.extra_flop += layers * 2.0 * shape.query_heads * static_cast<double>(tokens) / 2 *
                        static_cast<double>(tokens) * shape.head_dim;
    price.memory_bytes += 2 * 512 * tokens * 4;
  }
  return price;
}

std::string request_json(const CaptureRequest& request) {
  return fmt::format(
      R"({{"profile":"{}","windows":[{}],"layers":[{}],"stored_queries":{},"new_tokens":{},"attention_maps":{},"top_keys":{},"pooled_block":{},"compress":{},"never_drop":{},"drop_bulk":{},"live":{}}})",
      profile_name(request.profile), fmt::join(request.windows, ","),
      fmt::join(request.layers, ","), request.stored_queries, request.new_tokens,
      request.attention_maps, request.top_keys, request.pooled_block, request.compress,
      request.never_drop, request.drop_bulk, request.live);
}

}  // namespace kvscope
