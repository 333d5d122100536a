#include "logit_rows.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "kvscope/storage/capture_reader.h"

namespace kvscope::detail {
namespace {

constexpr std::int64_t rows_at_once = 256;
constexpr float never = -std::numeric_limits<float>::infinity();

DatasetSpec described(std::string path, std::vector<std::int64_t> extent,
                      std::vector<std::int64_t> chunk, std::vector<std::string> labels) {
  DatasetSpec spec;
  spec.path = std::move(path);
  spec.shape = std::move(extent);
  spec.chunk = std::move(chunk);
  spec.labels = std::move(labels);
  spec.type = ElementType::f4;
  spec.units = "nats";
  spec.group_reduce = "none";
  spec.kernel = "kvscope runtime";
  return spec;
}

}  // namespace

at::Tensor attention_logits(const at::Tensor& queries, const at::Tensor& keys,
                            const at::Tensor& positions, const ModelShape& shape, int window) {
  at::Tensor logits = queries.mm(keys.to(at::kFloat).t()).mul_(shape.attention_scale);
  if (shape.logit_softcap > 0) {
    logits.div_(shape.logit_softcap).tanh_().mul_(shape.logit_softcap);
  }
  const at::Tensor rows = positions.unsqueeze(1);
  const at::Tensor columns = at::arange(keys.size(0), positions.options()).unsqueeze(0);
  logits.masked_fill_(columns.gt(rows), never);
  if (window > 0) {
    logits.masked_fill_(columns.le(rows.sub(window)), never);
  }
  return logits;
}

void LogitRows::add_prompt(const LayerRecord& record) {
  const std::vector<int>& tokens = choice_.hook_tokens;
  const auto rows = static_cast<int>(record.queries.size(1));
  const auto first = std::lower_bound(tokens.begin(), tokens.end(), record.first_query);
  const auto last = std::lower_bound(first, tokens.end(), record.first_query + rows);
  const int window = index_.shape.window_of(record.layer);
  for (int head_row = 0; head_row < std::ssize(choice_.query_heads); ++head_row) {
    const int query_head = choice_.query_heads[static_cast<std::size_t>(head_row)];
    const at::Tensor keys = record.keys[index_.shape.kv_head_of(query_head)];
    for (auto next = first; next != last;) {
      const auto end = next + std::min<std::ptrdiff_t>(last - next, rows_at_once);
      const at::Tensor positions =
          at::tensor(std::vector<std::int64_t>(next, end), at::TensorOptions(at::kLong))
              .to(record.queries.device());
      const at::Tensor queries =
          record.queries[query_head].index_select(0, positions.sub(record.first_query));
      at::Tensor logits = attention_logits(queries, keys, positions, index_.shape, window);
      const std::int64_t later = index_.prompt_tokens - keys.size(0);
      thread_.put(layer_dataset(record.layer, "logits_attention"),
                  {head_row, next - tokens.begin(), 0}, {1, end - next, index_.prompt_tokens},
                  at::constant_pad_nd(logits, {0, later}, static_cast<double>(never)).to(at::kCPU));
      next = end;
    }
  }
}

at::Tensor LogitRows::step_row(const LayerRecord& record, int query_head) const {
  const ModelShape& shape = index_.shape;
  const int kv_head = shape.kv_head_of(query_head);
  const int window = shape.window_of(record.layer);
  const at::Tensor query = record.queries[query_head].narrow(0, record.queries.size(1) - 1, 1);
  const std::int64_t seen = record.first_query + record.queries.size(1);
  if (record.slots.slots == 0) {
    const at::Tensor position =
        at::full({1}, seen - 1, at::TensorOptions(at::kLong)).to(query.device());
    return attention_logits(query, record.keys[kv_head], position, shape, window)[0].to(at::kCPU);
  }
  // Slots are all behind the query, whatever their place; a window looks at positions.
  const SlotTable& slots = record.slots;
  const std::int64_t length = slots.length[static_cast<std::size_t>(kv_head)];
  const at::Tensor last = at::full({1}, length, at::TensorOptions(at::kLong)).to(query.device());
  const at::Tensor logits =
      attention_logits(query, record.keys[kv_head].narrow(0, 0, length), last, shape, 0)[0]
          .to(at::kCPU, at::kFloat)
          .contiguous();
  at::Tensor row = at::full({seen}, never, at::kFloat);
  for (int slot = 0; slot < length; ++slot) {
    const std::size_t cell = slots.cell(kv_head, slot);
    if (window == 0 || seen - 1 - slots.position[cell] < window) {
      row.mutable_data_ptr<float>()[slots.token[cell]] = logits.const_data_ptr<float>()[slot];
    }
  }
  return row;
}

void LogitRows::add_step(int series_row, int row, const LayerRecord& record) {
  const std::int64_t seen = record.first_query + record.queries.size(1);
  at::Tensor rows = at::empty({std::ssize(choice_.query_heads), seen}, at::kFloat);
  for (int head_row = 0; head_row < std::ssize(choice_.query_heads); ++head_row) {
    rows[head_row].copy_(step_row(record, choice_.query_heads[static_cast<std::size_t>(head_row)]));
  }
  thread_.put("steps/logits_attention", {series_row, row, 0, 0}, {1, 1, rows.size(0), seen}, rows);
}

std::vector<DatasetSpec> logit_datasets(const CaptureRequest& request, const ModelShape& shape,
                                        int prompt_tokens, ElementType) {
  const CaptureChoice choice = choose(request, shape, prompt_tokens);
  const std::int64_t query_heads = std::ssize(choice.query_heads);
  const std::int64_t hooked = std::ssize(choice.hook_tokens);
  std::vector<DatasetSpec> specs;
  for (const int layer : choice.layers) {
    if (request.logit_maps && choice.steps.prompt) {
      DatasetSpec& spec = specs.emplace_back(
          described(layer_dataset(layer, "logits_attention"), {query_heads, hooked, prompt_tokens},
                    {1, 16, 16384}, {"query_head", "hook_token", "token"}));
      spec.long_name = "attention logits, rows are queries";
      spec.formula = "s_ij = scale q_i k_j, softcapped where the model does; -inf where masked";
      spec.queries = "prompt tokens of /axes/hook_token";
    }
    if (request.keys_gradient) {
      DatasetSpec& spec = specs.emplace_back(
          described(layer_dataset(layer, "keys_gradient"),
                    {std::ssize(choice.kv_heads), hooked, shape.head_dim},
                    {1, 2048, shape.head_dim}, {"kv_head", "hook_token", "channel"}));
      spec.long_name = "gradient of the prompt's mean next-token loss by the keys before RoPE";
      spec.formula = "d/dk_j (1 / (n - 1)) sum_i -log p(x_{i+1} | x_0 ... x_i)";
      spec.queries = "all prompt queries but the last";
    }
  }
  if (request.logit_maps && !choice.steps.decode.empty()) {
    const std::int64_t planned = std::int64_t{prompt_tokens} + request.new_tokens;
    DatasetSpec& spec = specs.emplace_back(described(
        "steps/logits_attention",
        {std::ssize(choice.steps.decode), std::ssize(choice.layers), query_heads, planned},
        {1, 1, 8, 16384}, {"step", "layer", "query_head", "token"}));
    spec.long_name = "attention logits on every token seen, -inf where a token holds no slot";
    spec.formula = "s_j = scale q k_j, softcapped where the model does";
    spec.queries = "the step's query";
  }
  return specs;
}

}  // namespace kvscope::detail
