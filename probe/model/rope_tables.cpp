#include "rope_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kvscope/core/error.h"

namespace kvscope {
namespace {

using Table = std::vector<double>;

void check_positive(double value, const char* name, const std::string& where) {
  KVSCOPE_CHECK(std::isfinite(value) && value > 0, ErrorCode::corrupt_file,
                fmt::format("{} of the rotary embedding is {}; it must be positive", name, value),
                where);
}

Table plain_table(double base, int dims) {
  Table table;
  for (int pair = 0; pair < dims / 2; ++pair) {
    table.push_back(std::pow(base, -2.0 * pair / dims));
  }
  return table;
}

Table divided(Table table, const Table& divisors, const char* name, const std::string& where) {
  KVSCOPE_CHECK(divisors.size() == table.size(), ErrorCode::corrupt_file,
                fmt::format("{} has {} numbers, {} rotary pairs need as many", name,
                            divisors.size(), table.size()),
                where);
  for (std::size_t pair = 0; pair < table.size(); ++pair) {
    check_positive(divisors[pair], name, where);
    table[pair] /= divisors[pair];
  }
  return table;
}

/// Long wavelengths are stretched, short ones kept, those between mixed.
Table llama3_table(Table table, const RopeRequest& request) {
  const double original = request.original_context;
  for (double& frequency : table) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength > original / request.low_frequency_factor) {
      frequency /= request.factor;
    } else if (wavelength >= original / request.high_frequency_factor) {
      const double smooth = (original / wavelength - request.low_frequency_factor) /
                            (request.high_frequency_factor - request.low_frequency_factor);
      frequency = (1 - smooth) * frequency / request.factor + smooth * frequency;
    }
  }
  return table;
}

/// Dimensions that turn often are kept, those that turn seldom stretched, with a ramp between.
Table yarn_table(Table table, const RopeRequest& request) {
  const auto dimension_of = [&](double turns) {
    return request.dims * std::log(request.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(request.base));
  };
  double low = dimension_of(request.beta_fast);
  double high = dimension_of(request.beta_slow);
  if (request.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, request.dims - 1.0);
  high += low == high ? 0.001 : 0.0;
  for (std::size_t pair = 0; pair < table.size(); ++pair) {
    const double ramp = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
    table[pair] *= (1 - ramp) + ramp / request.factor;
  }
  return table;
}

double yarn_attention(const RopeRequest& request) {
  const auto scaled = [&](double mscale) {
    return request.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(request.factor) + 1.0;
  };
  return request.mscale > 0 && request.mscale_all_dim > 0
             ? scaled(request.mscale) / scaled(request.mscale_all_dim)
             : scaled(1.0);
}

double longrope_attention(const RopeRequest& request) {
  return request.factor <= 1
             ? 1.0
             : std::sqrt(1 + std::log(request.factor) / std::log(request.original_context));
}

}  // namespace

RopeParameters make_rope(const RopeRequest& request, const std::string& where) {
  check_positive(request.base, "the base", where);
  check_positive(request.factor, "the scaling factor", where);
  KVSCOPE_CHECK(request.dims >= 2 && request.dims % 2 == 0, ErrorCode::corrupt_file,
                fmt::format("{} rotary dimensions; they must be even", request.dims), where);
  RopeParameters rope;
  rope.base = request.base;
  rope.dims = request.dims;
  rope.scaling = request.type == "default" ? "none" : request.type;
  Table table = plain_table(request.base, request.dims);
  const auto needs_original = [&] {
    KVSCOPE_CHECK(request.original_context > 1, ErrorCode::corrupt_file,
                  fmt::format("rope scaling '{}' lacks the original context length", request.type),
                  where);
  };
  if (rope.scaling == "linear") {
    for (double& frequency : table) {
      frequency /= request.factor;
    }
  } else if (rope.scaling == "llama3") {
    needs_original();
    KVSCOPE_CHECK(request.low_frequency_factor > 0 &&
                      request.high_frequency_factor > request.low_frequency_factor,
                  ErrorCode::corrupt_file,
                  fmt::format("llama3 rope scaling has low_freq_factor {} and high_freq_factor {}",
                              request.low_frequency_factor, request.high_frequency_factor),
                  where);
    table = llama3_table(std::move(table), request);
  } else if (rope.scaling == "yarn") {
    needs_original();
    check_positive(request.beta_fast, "beta_fast", where);
    check_positive(request.beta_slow, "beta_slow", where);
    table = yarn_table(std::move(table), request);
    rope.attention_factor = request.attention_factor.value_or(yarn_attention(request));
  } else if (rope.scaling == "longrope") {
    needs_original();
    rope.growth = RopeGrowth::longrope;
    rope.original_context = request.original_context;
    rope.long_inverse_frequency = divided(table, request.long_factors, "long_factor", where);
    table = divided(std::move(table), request.short_factors, "short_factor", where);
    rope.attention_factor = request.attention_factor.value_or(longrope_attention(request));
  } else if (rope.scaling == "dynamic") {
    KVSCOPE_CHECK(request.context_length > 0 && request.dims > 2, ErrorCode::corrupt_file,
                  "dynamic rope scaling needs the context length and more than 2 dimensions",
                  where);
    rope.growth = RopeGrowth::dynamic_ntk;
    rope.original_context = request.context_length;
    rope.growth_factor = request.factor;
  } else {
    KVSCOPE_CHECK(rope.scaling == "none", ErrorCode::unsupported,
                  fmt::format("rope scaling '{}' is not supported", request.type), where,
                  "known: default, linear, dynamic, llama3, yarn, longrope");
  }
  check_positive(rope.attention_factor, "the attention factor", where);
  rope.inverse_frequency = request.divisors.empty()
                               ? std::move(table)
                               : divided(std::move(table), request.divisors, "rope_freqs", where);
  return rope;
}

}  // namespace kvscope
