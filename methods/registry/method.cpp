#include "kvscope/methods/method.h"

#include <nlohmann/json.hpp>

#include "registry/method_pieces.h"

namespace kvscope {
namespace {

using Json = nlohmann::ordered_json;

const char* kind_name(PieceInfo::Kind kind) {
  switch (kind) {
    case PieceInfo::Kind::scorer:
      return "scorer";
    case PieceInfo::Kind::allocator:
      return "allocator";
    case PieceInfo::Kind::selector:
      return "selector";
    case PieceInfo::Kind::merger:
      return "merger";
    case PieceInfo::Kind::representation:
      return "representation";
    case PieceInfo::Kind::cadence:
      return "cadence";
    case PieceInfo::Kind::preset:
      return "preset";
  }
  return "";
}

Json typed_value(const ParameterInfo& parameter, const detail::Arguments& arguments) {
  switch (parameter.type) {
    case ParameterInfo::Type::integer:
      return arguments.integer(parameter.name);
    case ParameterInfo::Type::real:
      return arguments.real(parameter.name);
    case ParameterInfo::Type::boolean:
      return arguments.boolean(parameter.name);
    default:
      return arguments.text(parameter.name);
  }
}

const char* type_name(ParameterInfo::Type type) {
  switch (type) {
    case ParameterInfo::Type::integer:
      return "integer";
    case ParameterInfo::Type::real:
      return "real";
    case ParameterInfo::Type::boolean:
      return "boolean";
    case ParameterInfo::Type::choice:
      return "choice";
    case ParameterInfo::Type::list:
      return "list";
    case ParameterInfo::Type::text:
      return "text";
  }
  return "";
}

Json piece_json(const detail::Arguments& arguments) {
  const PieceInfo& info = arguments.info();
  Json parameters = Json::array();
  for (const ParameterInfo& parameter : info.parameters) {
    parameters.push_back({{"name", parameter.name},
                          {"type", type_name(parameter.type)},
                          {"value", typed_value(parameter, arguments)},
                          {"default", parameter.default_value},
                          {"range", parameter.range},
                          {"unit", parameter.unit},
                          {"help", parameter.help}});
  }
  return {{"kind", kind_name(info.kind)},  {"name", info.name},
          {"summary", info.summary},       {"paper", info.paper},
          {"departures", info.departures}, {"parameters", parameters}};
}

const char* scope_name(Allocator::Scope scope) {
  switch (scope) {
    case Allocator::Scope::head:
      return "head";
    case Allocator::Scope::layer:
      return "layer";
    case Allocator::Scope::model:
      return "model";
  }
  return "";
}

}  // namespace

Method::Method(std::unique_ptr<Pieces> pieces) : pieces_(std::move(pieces)) {}
Method::Method(Method&&) noexcept = default;
Method& Method::operator=(Method&&) noexcept = default;
Method::~Method() = default;

const std::string& Method::text() const {
  return pieces_->text;
}
const std::string& Method::preset() const {
  return pieces_->preset;
}
CacheForm Method::form() const {
  return pieces_->parts.form;
}
bool Method::cuts_while_reading() const {
  return pieces_->parts.cadence && pieces_->parts.cadence->cuts_while_reading();
}
bool Method::by_method() const {
  return pieces_->by_method();
}

std::string Method::descriptor_json() const {
  const PieceInfo& first = pieces_->arguments.front().info();
  Json terms = Json::array();
  for (const TermInfo& term : first.terms) {
    terms.push_back({{"name", term.name}, {"unit", term.unit}});
  }
  Json pieces = Json::array();
  for (const detail::Arguments& arguments : pieces_->arguments) {
    pieces.push_back(piece_json(arguments));
  }
  const Json descriptor = {
      {"name", first.name},
      {"text", pieces_->text},
      {"summary", first.summary},
      {"paper", first.paper},
      {"departures", first.departures},
      {"expands_to", first.expands_to},
      {"score_scope", first.scope},
      {"scope",
       pieces_->parts.scorer ? scope_name(pieces_->parts.allocator->scope()) : first.scope.c_str()},
      {"by_method", by_method()},
      {"merges", pieces_->parts.merger != nullptr ||
                     (pieces_->parts.cadence && pieces_->parts.cadence->merges())},
      {"terms", terms},
      {"combine", first.combine},
      {"pieces", pieces}};
  return descriptor.dump();
}

}  // namespace kvscope
