#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace kvscope::detail {

/// What the queries of one attention call are meant to see: query i is token `first_query + i`,
/// column c of the keys is token `first_key + c`, and a query sees the tokens up to its own, with a
/// window the newest `window` of them.
struct MaskRule {
  int first_query = 0;
  int first_key = 0;
  int window = 0;  ///< 0 = global
  bool operator==(const MaskRule&) const = default;
};

/// Checks that a mask says nothing else than the rule. Masks of one pass are shared by layers: each
/// is looked at once.
class MaskCheck {
 public:
  /// `mask`: undefined; [1, keys] of padding; or [1, 1, queries, keys], boolean (true = visible) or
  /// float (0 = visible, the least number of its type or -inf = hidden). `kernel`: who reads it;
  /// what an absent mask means hangs on it. Throws Error{unsupported} for anything else.
  void check(const at::Tensor& mask, int queries, int keys, const MaskRule& rule,
             const std::string& kernel);
  /// Before every pass.
  void forget() { seen_.clear(); }

 private:
  struct Seen {
    at::Tensor mask;
    MaskRule rule;
  };
  std::vector<Seen> seen_;
};

}  // namespace kvscope::detail
