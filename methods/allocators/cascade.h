#pragma once

#include <vector>

namespace kvscope::detail {

/// CAKE's rounding: whole slots of each layer from real `shares`, at most `most` each. What lies
/// above is spread equally over the layers below it, the rest to the first of them; then the sum is
/// brought to `total` in the same way, taking from layers above 1.
std::vector<int> adjusted_slots(const std::vector<double>& shares, int total, int most);

}  // namespace kvscope::detail
