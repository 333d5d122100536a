// A program of somebody else that uses the installed package.
#include <kvscope/core/budget.h>
#include <kvscope/core/error.h>
#include <kvscope/storage/file_kind.h>

#include <cstdio>

#ifdef CONSUMER_TORCH
int count_methods();
#endif

int main() {
  kvscope::BudgetScope scope;
  scope.tokens = 100;
  scope.layers = 1;
  scope.kv_heads = 1;
  std::printf("%d of 100 slots\n", kvscope::Budget::parse("0.2").slots_per_head(scope));
#ifdef CONSUMER_TORCH
  if (count_methods() < 1) {
    return 1;
  }
#endif
  try {
    kvscope::Budget::parse("many");
  } catch (const kvscope::Error& error) {
    return error.code() == kvscope::ErrorCode::usage ? 0 : 1;
  }
  return 1;
}
