#include "allocators/allocators.h"
#include "registry/entry.h"

namespace kvscope::detail {
namespace {

class Uniform : public Allocator {
 public:
  Scope scope() const override { return Scope::head; }
  Allocation allocate(const AllocationRequest& request) const override {
    return {static_cast<int>(request.scores.size()), request.scope.kv_heads,
            request.budget.slots_per_head(request.scope)};
  }
  bool even() const override { return true; }
};

class Everything : public Allocator {
 public:
  Scope scope() const override { return Scope::head; }
  Allocation allocate(const AllocationRequest& request) const override {
    return {static_cast<int>(request.scores.size()), request.scope.kv_heads, request.scope.tokens};
  }
  int smallest_grant(const Budget&, const BudgetScope& scope, int) const override {
    return scope.tokens;
  }
  bool by_method() const override { return true; }
  bool even() const override { return true; }
};

}  // namespace

std::unique_ptr<Allocator> make_uniform() {
  return std::make_unique<Uniform>();
}
std::unique_ptr<Allocator> make_everything() {
  return std::make_unique<Everything>();
}

PieceEntry uniform_entry() {
  PieceEntry entry;
  entry.info.name = "uniform";
  entry.info.kind = PieceInfo::Kind::allocator;
  entry.info.summary = "the same number of slots in every layer and KV head";
  entry.info.scope = "head";
  entry.build = [](const Arguments&, Parts& parts) { parts.allocator = make_uniform(); };
  return entry;
}

}  // namespace kvscope::detail
