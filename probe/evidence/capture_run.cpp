#include "kvscope/evidence/capture_run.h"

#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "capture_evidence.h"
#include "kvscope/core/error.h"
#include "kvscope/kernels/attention_stats.h"

namespace kvscope {
namespace {

[[noreturn]] void needs_live_run(const char* what) {
  throw Error(ErrorCode::unsupported, fmt::format("a capture cannot {}", what), "capture",
              "use a live run: kvscope generate MODEL");
}

at::Tensor read_rows(const CaptureReader& reader, const std::string& dataset,
                     const std::vector<std::int64_t>& offset,
                     const std::vector<std::int64_t>& count, at::IntArrayRef shape) {
  std::int64_t elements = 1;
  for (const std::int64_t size : count) {
    elements *= size;
  }
  std::vector<float> values(static_cast<std::size_t>(elements));
  reader.read(dataset, offset, count, std::span(values));
  return at::from_blob(values.data(), shape, at::kFloat).clone();
}

}  // namespace

CaptureRun::CaptureRun(std::shared_ptr<const CaptureReader> reader, CutAfter cut_after,
                       std::uint64_t seed)
    : reader_(std::move(reader)), seed_(seed) {
  const CaptureIndex& index = reader_->index();
  require_all_heads(index);
  cut_ = cut_after == CutAfter::prompt ? index.prompt_tokens : index.context_tokens;
  KVSCOPE_CHECK(cut_after == CutAfter::prompt || index.context_tokens < index.prompt_tokens,
                ErrorCode::usage, "the capture has no question after the context", index.path,
                "capture with --question TEXT, or cut after the prompt");
  KVSCOPE_CHECK(cut_ > 0, ErrorCode::usage, "there is nothing before the cut", index.path,
                "cut after the prompt");
}

const ModelShape& CaptureRun::shape() const {
  return reader_->index().shape;
}
const TokenTable& CaptureRun::tokens() const {
  return reader_->tokens();
}
int CaptureRun::tokens_seen() const {
  return cut_;
}
std::string CaptureRun::capture_hash() const {
  return reader_->index().capture_hash;
}
std::string CaptureRun::model_name() const {
  return reader_->index().model_name;
}
std::string CaptureRun::model_hash() const {
  return reader_->index().model_hash;
}

std::unique_ptr<LayerEvidence> CaptureRun::layer(int layer) {
  return std::make_unique<CaptureEvidence>(reader_, layer, cut_, seed_);
}

void CaptureRun::forward(std::span<const std::int32_t>, const ForwardRequest&) {
  needs_live_run("run the model");
}
void CaptureRun::apply(const Decision&) {
  needs_live_run("apply a decision");
}
at::Tensor CaptureRun::logits() {
  needs_live_run("give logits");
}

AttentionTile capture_tile(const CaptureReader& reader, int layer, int query_head, int first_query,
                           int queries, int first_key, int keys) {
  const CaptureIndex& index = reader.index();
  const ModelShape& shape = index.shape;
  const int row = captured_row(reader, layer);
  require_all_heads(index);
  KVSCOPE_CHECK(
      query_head >= 0 && query_head < shape.query_heads && first_query >= 0 && queries >= 0 &&
          first_query + queries <= index.prompt_tokens && first_key >= 0 && keys >= 0 &&
          first_key + keys <= index.prompt_tokens,
      ErrorCode::usage, "the tile lies outside the attention map", index.path,
      fmt::format("heads 0 to {}, tokens 0 to {}", shape.query_heads - 1, index.prompt_tokens - 1));
  AttentionTile tile{layer, query_head, first_query, queries, first_key, keys, {}};
  if (queries == 0 || keys == 0) {
    return tile;
  }
  const std::string query_set = layer_dataset(layer, "queries");
  KVSCOPE_CHECK(!reader.has(query_set) || first_query >= index.first_query, ErrorCode::missing_data,
                fmt::format("queries before {} were not stored", index.first_query),
                fmt::format("{}, /{}", index.path, query_set), "capture again with --profile full");
  const std::int64_t dim = shape.head_dim;
  const at::Tensor q =
      read_rows(reader, query_set, {query_head, first_query - index.first_query, 0},
                {1, queries, dim}, {queries, dim});
  const at::Tensor k =
      read_rows(reader, layer_dataset(layer, "keys"), {shape.kv_head_of(query_head), first_key, 0},
                {1, keys, dim}, {keys, dim});
  const at::Tensor lse =
      read_rows(reader, "reduce/lse", {row, query_head, first_query}, {1, 1, queries}, {queries});
  AttentionStatsOptions options;
  options.scale = shape.attention_scale;
  options.softcap = shape.logit_softcap;
  options.window = shape.window_of(layer);
  const at::Tensor map =
      attention_rectangle(q, k, lse, first_query, first_key, options).contiguous();
  tile.probability.assign(map.const_data_ptr<float>(), map.const_data_ptr<float>() + map.numel());
  return tile;
}

}  // namespace kvscope
