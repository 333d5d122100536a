#include "mask_check.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kvscope/core/error.h"

namespace kvscope::detail {
namespace {

constexpr const char* where = "attention mask";

[[noreturn]] void refuse(const std::string& what, const std::string& fix) {
  throw Error(ErrorCode::unsupported, what, where, fix);
}

std::string shape_text(const at::Tensor& tensor) {
  std::string text;
  for (const std::int64_t size : tensor.sizes()) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", size);
  }
  return "[" + text + "]";
}

/// What every query would see by the rule: [queries, keys].
at::Tensor visible_by(const MaskRule& rule, int queries, int keys, at::Device device) {
  const at::TensorOptions whole = at::TensorOptions(at::kInt).device(device);
  const at::Tensor query =
      at::arange(rule.first_query, rule.first_query + queries, whole).unsqueeze(1);
  const at::Tensor key = at::arange(rule.first_key, rule.first_key + keys, whole).unsqueeze(0);
  at::Tensor visible = key.le(query);
  if (rule.window > 0) {
    visible = visible.logical_and(key.gt(query.sub(rule.window)));
  }
  return visible;
}

/// A mask without its values: true where a key is visible.
at::Tensor visible_of(const at::Tensor& mask) {
  if (mask.scalar_type() == at::kBool) {
    return mask;
  }
  if (!mask.is_floating_point()) {
    refuse("the mask holds whole numbers", "pass a boolean mask, or a float one of 0 and -inf");
  }
  const at::Tensor visible = mask.eq(0);
  const double least =
      mask.scalar_type() == at::kHalf ? -65504.0 : std::numeric_limits<float>::lowest();
  if (!visible.logical_or(mask.le(least / 2)).all().item<bool>()) {
    refuse("the float mask adds finite biases to the logits (ALiBi, relative positions)",
           "capture a model without biases: kvscope's statistics would not be those of the run");
  }
  return visible;
}

/// What the kernel does without a mask must be what the rule says.
void check_absent(int queries, int keys, const MaskRule& rule, const std::string& kernel) {
  if (kernel.find("flash") != std::string::npos) {
    return;  // causal, aligned with the newest key, and with the layer's window
  }
  const bool in_window = rule.window == 0 || keys <= rule.window;
  const bool causal = queries == 1 || (kernel != "eager" && queries == keys);
  if (!causal || !in_window) {
    refuse(
        fmt::format("no mask came for {} queries over {} keys{}", queries, keys,
                    in_window ? "" : fmt::format(", in a layer with a window of {}", rule.window)),
        "let the model build its masks, or use an implementation that needs none (sdpa, flash)");
  }
}

void check_padding(const at::Tensor& mask) {
  if (!mask.to(at::kBool).all().item<bool>()) {
    refuse("the mask hides padding", "run one unpadded sequence");
  }
}

}  // namespace

void MaskCheck::check(const at::Tensor& mask, int queries, int keys, const MaskRule& rule,
                      const std::string& kernel) {
  if (!mask.defined()) {
    check_absent(queries, keys, rule, kernel);
    return;
  }
  const auto known = std::find_if(seen_.begin(), seen_.end(), [&](const Seen& one) {
    return one.mask.is_same(mask) && one.rule == rule;
  });
  if (known != seen_.end()) {
    return;
  }
  if (mask.dim() == 2 && mask.size(0) == 1) {
    check_padding(mask);
    seen_.push_back({mask, rule});
    return;
  }
  if (mask.dim() != 4 || mask.size(0) != 1 || mask.size(1) != 1 || mask.size(2) != queries ||
      mask.size(3) < keys) {
    refuse(fmt::format("a mask of shape {} for {} queries over {} keys", shape_text(mask), queries,
                       keys),
           "pass none, padding [1, keys], or [1, 1, queries, keys]");
  }
  const at::Tensor visible = visible_of(mask)[0][0].narrow(1, 0, keys);
  if (!at::equal(visible, visible_by(rule, queries, keys, mask.device()))) {
    refuse(rule.window == 0
               ? "the mask is not causal (padding, packed sequences, a prefix seen in full)"
               : fmt::format("the mask is not causal with the layer's window of {}", rule.window),
           "run one unpadded sequence with the model's own causal mask");
  }
  seen_.push_back({mask, rule});
}

}  // namespace kvscope::detail
