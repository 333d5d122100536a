#include "kvscope/core/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace kvscope {
namespace {

std::string full_text(const std::string& message, const std::string& where,
                      const std::string& fix) {
  std::string text = message;
  if (!where.empty()) {
    text += fmt::format("\nwhere: {}", where);
  }
  if (!fix.empty()) {
    text += fmt::format("\nfix:   {}", fix);
  }
  return text;
}

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

}  // namespace

Error::Error(ErrorCode code, std::string what_is_wrong, std::string where, std::string fix)
    : std::runtime_error(full_text(what_is_wrong, where, fix)),
      code_(code),
      message_(std::move(what_is_wrong)),
      where_(std::move(where)),
      fix_(std::move(fix)) {}

int exit_status(const Error& error) noexcept {
  return error.code() == ErrorCode::usage ? 2 : 1;
}

std::string nearest_name(const std::string& name, const std::string* candidates, int count) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 2) + 1;
  for (int index = 0; index < count; ++index) {
    const std::size_t distance = edit_distance(name, candidates[index]);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidates[index];
    }
  }
  return best;
}

}  // namespace kvscope
