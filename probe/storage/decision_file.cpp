#include "kvscope/storage/decision_file.h"

#include <fmt/format.h>

#include <limits>
#include <numeric>

#include "attributes.h"
#include "decision_planes.h"
#include "h5.h"
#include "temporary_file.h"

namespace kvscope {
namespace {

using h5::Extent;
using h5::Handle;
using h5::Session;

struct TextField {
  const char* name;
  std::string Decision::*member;
};
constexpr TextField text_fields[] = {{"method", &Decision::method},
                                     {"preset", &Decision::preset},
                                     {"keep", &Decision::keep},
                                     {"rounding", &Decision::rounding},
                                     {"capture_hash", &Decision::capture_hash},
                                     {"model_name", &Decision::model_name}};

struct FlagField {
  const char* name;
  bool Decision::*member;
};
constexpr FlagField flag_fields[] = {{"by_method", &Decision::by_method},
                                     {"replayed", &Decision::replayed},
                                     {"replay_exact", &Decision::replay_exact}};

struct SizeField {
  const char* name;
  int Decision::*member;
};
constexpr SizeField size_fields[] = {{"query_heads", &Decision::query_heads},
                                     {"kv_heads", &Decision::kv_heads},
                                     {"head_dim", &Decision::head_dim},
                                     {"tokens", &Decision::tokens},
                                     {"cut_tokens", &Decision::cut_tokens}};

void write_header(hid_t file, const Decision& decision) {
  h5::set_format(file, "kvscope.decision");
  for (const TextField& field : text_fields) {
    h5::set_text(file, field.name, decision.*field.member);
  }
  for (const FlagField& field : flag_fields) {
    h5::set_number(file, field.name, decision.*field.member ? 1 : 0);
  }
  for (const SizeField& field : size_fields) {
    h5::set_number(file, field.name, decision.*field.member);
  }
  h5::set_number(file, "budget_slots", decision.budget_slots);
  h5::set_number(file, "form_keys_pre_rope", decision.form.keys == Frame::pre_rope ? 1 : 0);
  h5::set_number(file, "form_positions", static_cast<int>(decision.form.positions));
  h5::set_number(file, "form_values_summed",
                 decision.form.values == CacheForm::Values::sum ? 1 : 0);
  h5::set_number(file, "form_value_bits", decision.form.value_bits);
  std::string names;
  for (const std::string& name : decision.term_names) {
    names += names.empty() ? name : "\n" + name;
  }
  h5::set_text(file, "term_names", names);
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

Decision read_header(hid_t file, const std::string& path) {
  h5::check_format(file, "kvscope.decision", path);
  Decision decision;
  for (const TextField& field : text_fields) {
    decision.*field.member = h5::get_text(file, field.name);
  }
  for (const FlagField& field : flag_fields) {
    decision.*field.member = h5::get_number(file, field.name, 0) != 0;
  }
  for (const SizeField& field : size_fields) {
    const std::int64_t value = h5::get_number(file, field.name, -1);
    KVSCOPE_CHECK(value >= 0 && value <= std::numeric_limits<int>::max() / 2,
                  ErrorCode::corrupt_file, fmt::format("{} is {}", field.name, value), path);
    decision.*field.member = static_cast<int>(value);
  }
  KVSCOPE_CHECK(decision.kv_heads >= 1 && decision.query_heads >= 1 &&
                    decision.query_heads % decision.kv_heads == 0 &&
                    decision.cut_tokens <= decision.tokens,
                ErrorCode::corrupt_file, "the decision's sizes contradict each other", path);
  decision.budget_slots = h5::get_number(file, "budget_slots", 0);
  decision.form.keys =
      h5::get_number(file, "form_keys_pre_rope", 0) != 0 ? Frame::pre_rope : Frame::post_rope;
  const std::int64_t positions = h5::get_number(file, "form_positions", 0);
  KVSCOPE_CHECK(positions >= 0 && positions <= 2, ErrorCode::corrupt_file,
                fmt::format("unknown position rule {}", positions), path);
  decision.form.positions = static_cast<CacheForm::Positions>(positions);
  decision.form.values = h5::get_number(file, "form_values_summed", 0) != 0
                             ? CacheForm::Values::sum
                             : CacheForm::Values::mean;
  const std::int64_t bits = h5::get_number(file, "form_value_bits", 0);
  KVSCOPE_CHECK(bits == 0 || bits == 4 || bits == 8, ErrorCode::corrupt_file,
                fmt::format("values of {} bits", bits), path);
  decision.form.value_bits = static_cast<int>(bits);
  decision.term_names = split_lines(h5::get_text(file, "term_names"));
  return decision;
}

void write_descriptor(hid_t file, const Decision& decision) {
  DatasetSpec spec;
  spec.path = "decisions/descriptor_json";
  spec.type = ElementType::u1;
  spec.shape = {static_cast<std::int64_t>(decision.descriptor_json.size())};
  spec.long_name = "the method's parameters, terms, scope and rules, JSON in UTF-8";
  h5::store(
      file, spec,
      std::vector<std::uint8_t>(decision.descriptor_json.begin(), decision.descriptor_json.end()));
}

/// Rows of a one-dimensional dataset, 0 if absent.
std::int64_t rows_of(hid_t file, const std::string& path, std::size_t axis = 0) {
  if (!h5::exists(file, path)) {
    return 0;
  }
  const Extent extent = h5::extent(h5::open_dataset(file, path), path);
  KVSCOPE_CHECK(extent.size() > axis, ErrorCode::corrupt_file, "the dataset has too few axes",
                "/" + path);
  return extent[axis];
}

}  // namespace

void write_decision(const std::string& path, const Decision& decision, bool force) {
  validate(decision, path);
  TemporaryFile temporary(path, force);
  {
    const Session session;
    Handle file = h5::create_file(temporary.name());
    write_header(file, decision);
    write_descriptor(file, decision);
    write_axes(file, decision);
    write_events(file, decision);
    write_planes(file, decision);
    write_edges(file, decision);
    write_metrics(file, decision);
    h5::require(H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0 && file.reset(), ErrorCode::io,
                "the file cannot be closed", path);
  }
  temporary.commit();
}

Decision read_decision(const std::string& path) {
  const Session session;
  const Handle file = h5::open_file(path);
  Decision decision;
  try {
    decision = read_header(file, path);
    const std::int64_t json_bytes = rows_of(file, "decisions/descriptor_json");
    const auto json = h5::load<std::uint8_t>(file, "decisions/descriptor_json", {json_bytes});
    decision.descriptor_json.assign(json.begin(), json.end());
    read_axes(file, decision);
    read_events(file, decision, rows_of(file, "decisions/events"));
    read_planes(file, decision);
    read_edges(file, decision, rows_of(file, "decisions/merge/source"),
               h5::exists(file, "decisions/merge/key_row")
                   ? rows_of(file, "decisions/merge/key_row", 1)
                   : 0);
    read_metrics(file, decision);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::missing_data) {
      throw Error(ErrorCode::corrupt_file, error.message(), path + ", " + error.where());
    }
    throw;
  }
  validate(decision, path);
  return decision;
}

}  // namespace kvscope
