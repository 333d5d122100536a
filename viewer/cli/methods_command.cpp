#include <fmt/format.h>

#include "command.h"
#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/methods/method.h"

namespace kvscope::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string name;
};

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

const char* type_name(ParameterInfo::Type type) {
  switch (type) {
    case ParameterInfo::Type::integer:
      return "integer";
    case ParameterInfo::Type::real:
      return "number";
    case ParameterInfo::Type::boolean:
      return "true|false";
    case ParameterInfo::Type::choice:
      return "choice";
    case ParameterInfo::Type::text:
      return "text";
    case ParameterInfo::Type::list:
      return "list";
  }
  return "";
}

nlohmann::json to_json(const PieceInfo& piece) {
  nlohmann::json parameters = nlohmann::json::array();
  for (const ParameterInfo& parameter : piece.parameters) {
    parameters.push_back({{"name", parameter.name},
                          {"type", type_name(parameter.type)},
                          {"default", parameter.default_value},
                          {"range", parameter.range},
                          {"unit", parameter.unit},
                          {"help", parameter.help}});
  }
  nlohmann::json terms = nlohmann::json::array();
  for (const TermInfo& term : piece.terms) {
    terms.push_back({{"name", term.name}, {"unit", term.unit}});
  }
  return {{"name", piece.name},
          {"kind", kind_name(piece.kind)},
          {"summary", piece.summary},
          {"paper", piece.paper},
          {"departures", piece.departures},
          {"scope", piece.scope},
          {"parameters", parameters},
          {"terms", terms},
          {"combine", piece.combine},
          {"expands_to", piece.expands_to}};
}

std::string explain(const PieceInfo& piece) {
  std::string text =
      fmt::format("{} ({})\n  {}\n", piece.name, kind_name(piece.kind), piece.summary);
  const auto line = [&text](const char* label, const std::string& value) {
    if (!value.empty()) {
      text += fmt::format("  {:<11} {}\n", label, value);
    }
  };
  line("paper", piece.paper);
  line("departures", piece.departures);
  line("scope", piece.scope);
  line("stands for", piece.expands_to);
  for (const ParameterInfo& parameter : piece.parameters) {
    text += fmt::format("  {}={}  {} {}{}\n      {}\n", parameter.name, parameter.default_value,
                        type_name(parameter.type), parameter.range,
                        parameter.unit.empty() ? "" : " " + parameter.unit, parameter.help);
  }
  for (const TermInfo& term : piece.terms) {
    text += fmt::format("  term {} ({})\n", term.name, term.unit);
  }
  line("combined by", piece.combine);
  return text;
}

const PieceInfo& find(const std::string& name) {
  std::vector<std::string> names;
  for (const PieceInfo& piece : registry()) {
    if (piece.name == name) {
      return piece;
    }
    names.push_back(piece.name);
  }
  const std::string near = nearest_name(name, names.data(), static_cast<int>(names.size()));
  throw Error(
      ErrorCode::usage, fmt::format("unknown method or piece '{}'", name), "",
      near.empty() ? "`kvscope methods` lists all" : fmt::format("did you mean '{}'?", near));
}

void run_methods(const Options& options) {
  if (!options.name.empty()) {
    const PieceInfo& piece = find(options.name);
    if (options.common.json) {
      print_json(to_json(piece));
    } else {
      print(explain(piece));
    }
    return;
  }
  if (options.common.json) {
    nlohmann::json all = nlohmann::json::array();
    for (const PieceInfo& piece : registry()) {
      all.push_back(to_json(piece));
    }
    print_json(all);
    return;
  }
  std::string text;
  const char* last = "";
  for (const PieceInfo& piece : registry()) {
    if (kind_name(piece.kind) != std::string_view(last)) {
      last = kind_name(piece.kind);
      text += fmt::format("{}{}s\n", text.empty() ? "" : "\n", last);
    }
    text += fmt::format("  {:<20} {}\n", piece.name, piece.summary);
  }
  text +=
      "\nJoin pieces with '|', give parameters after ':', e.g. snapkv:window=32|adakv:floor=0.2\n"
      "`kvscope methods NAME` explains one: parameters, paper, where we differ.\n";
  print(text);
}

}  // namespace

void add_methods(Program program) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      program.app.add_subcommand("methods", "List methods and pieces, or explain one");
  command->add_option("NAME", options->name, "A preset or piece");
  add_common(*command, options->common);
  command->footer("Examples:\n  kvscope methods\n  kvscope methods snapkv");
  command->callback([options] { run_methods(*options); });
}

}  // namespace kvscope::cli
