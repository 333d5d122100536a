#include "group_planes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <sstream>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

const std::array<std::string, 3> names = {"mean", "sum", "max"};

}  // namespace

const char* group_reduce_name(GroupReduce reduce) {
  return names.at(static_cast<std::size_t>(reduce)).c_str();
}

std::vector<GroupReduce> parse_group_reduces(const std::string& text, const std::string& flag) {
  std::vector<GroupReduce> reduces;
  std::stringstream items(text);
  for (std::string name; std::getline(items, name, ',');) {
    const auto found = std::find(names.begin(), names.end(), name);
    KVSCOPE_CHECK(found != names.end(), ErrorCode::usage,
                  fmt::format("'{}' joins no query heads", name), flag, "use mean, sum or max");
    reduces.push_back(static_cast<GroupReduce>(found - names.begin()));
  }
  std::sort(reduces.begin(), reduces.end());
  reduces.erase(std::unique(reduces.begin(), reduces.end()), reduces.end());
  return reduces;
}

namespace detail {

bool has_group_variant(const std::string& name) {
  const std::string plane = name.substr(name.rfind('/') + 1);
  return !name.starts_with("group_") &&
         (plane.starts_with("attention_") || plane.starts_with("window_") || plane == "last_query");
}

std::string group_variant(GroupReduce reduce, const std::string& name) {
  return fmt::format("group_{}/{}", group_reduce_name(reduce), name);
}

at::Tensor reduced_over_group(const at::Tensor& values, GroupReduce reduce, int kv_heads) {
  const at::Tensor groups = values.reshape({kv_heads, -1, values.size(1)});
  switch (reduce) {
    case GroupReduce::mean:
      return groups.mean(1);
    case GroupReduce::sum:
      return groups.sum(1);
    case GroupReduce::max:
      break;
  }
  return groups.amax(1);
}

std::vector<DatasetSpec> group_datasets(const std::vector<DatasetSpec>& specs,
                                        const CaptureRequest& request, std::int64_t kv_heads) {
  const std::string folder = "reduce/";
  std::vector<DatasetSpec> variants;
  for (const GroupReduce reduce : request.group_reduces) {
    const std::string name = group_reduce_name(reduce);
    for (const DatasetSpec& spec : specs) {
      if (!spec.path.starts_with(folder) || !has_group_variant(spec.path.substr(folder.size()))) {
        continue;
      }
      DatasetSpec variant = spec;
      variant.path = folder + group_variant(reduce, spec.path.substr(folder.size()));
      variant.shape[1] = kv_heads;
      variant.chunk[1] = std::min(variant.chunk[1], kv_heads);
      variant.labels[1] = "kv_head";
      variant.group_reduce = name;
      variant.long_name += fmt::format(", {} over the query heads of the group", name);
      variant.formula = fmt::format("{}_{{h in group}} ({})", name, spec.formula);
      variants.push_back(std::move(variant));
    }
  }
  return variants;
}

}  // namespace detail
}  // namespace kvscope
