#pragma once

#include <memory>
#include <vector>

#include "kvscope/methods/method.h"
#include "kvscope/methods/pieces.h"

namespace kvscope::detail {

/// The same number of slots in every layer and KV head.
std::unique_ptr<Allocator> make_uniform();
/// A slot for every token; ignores the budget.
std::unique_ptr<Allocator> make_everything();
/// Fewer slots in deeper layers (specs/baselines.md B2).
std::unique_ptr<Allocator> make_pyramid(double beta);
/// One pool per layer with a guaranteed share for each head (B3).
std::unique_ptr<Allocator> make_adakv(double floor);
/// One pool per layer or for the model; `normalise` divides each layer's scores by their sum first.
std::unique_ptr<Allocator> make_pool(Allocator::Scope scope, bool normalise);

struct CascadeOptions {
  int window = 32;  ///< newest queries that are measured
  double tau1 = 1;
  double tau2 = 1;
};
/// CAKE's shares for layers (B4).
std::unique_ptr<Allocator> make_cascade(const CascadeOptions& options);

/// tau1 and tau2.
std::vector<ParameterInfo> cascade_parameters();
ParameterInfo beta_parameter();
ParameterInfo floor_parameter();

}  // namespace kvscope::detail
