#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "kvscope/capture/request.h"

namespace kvscope::detail {

/// Whether a plane of /reduce says what attention a token receives from each query head: then it
/// may be stored by KV head, too. `name` without "reduce/".
bool has_group_variant(const std::string& name);

/// "group_mean/attention_sum": the plane of KV heads.
std::string group_variant(GroupReduce reduce, const std::string& name);

/// [query_heads, columns] as [kv_heads, columns], over the query heads of each group.
at::Tensor reduced_over_group(const at::Tensor& values, GroupReduce reduce, int kv_heads);

/// The variants that `request` asks for of the planes in `specs`.
std::vector<DatasetSpec> group_datasets(const std::vector<DatasetSpec>& specs,
                                        const CaptureRequest& request, std::int64_t kv_heads);

}  // namespace kvscope::detail
