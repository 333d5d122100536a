#include <fmt/format.h>

#include <algorithm>

#include "allocators/allocators.h"
#include "kvscope/core/error.h"
#include "registry/method_pieces.h"
#include "registry/text.h"
#include "selectors/selectors.h"

namespace kvscope {
namespace {

using detail::Arguments;
using detail::PieceEntry;
using detail::PieceText;

bool starts_a_method(PieceInfo::Kind kind) {
  return kind == PieceInfo::Kind::scorer || kind == PieceInfo::Kind::preset;
}

/// The entry of a piece; `first` tells presets and scorers from the pieces that follow them.
const PieceEntry& find_entry(const std::string& name, bool first) {
  std::vector<std::string> names;
  bool elsewhere = false;
  for (const PieceEntry& entry : detail::entries()) {
    if (starts_a_method(entry.info.kind) != first) {
      elsewhere = elsewhere || entry.info.name == name;
      continue;
    }
    if (entry.info.name == name) {
      return entry;
    }
    names.push_back(entry.info.name);
  }
  const char* what = first ? "method" : "piece";
  if (elsewhere) {
    throw Error(ErrorCode::usage,
                first ? fmt::format("'{}' cannot be the first piece: it does not score", name)
                      : fmt::format("'{}' scores, so it can only be the first piece", name),
                "method text",
                "write SCORER | ALLOCATOR | SELECTOR | MERGER | REPRESENTATION | CADENCE");
  }
  throw Error(ErrorCode::usage,
              fmt::format("unknown {} '{}'{}", what, name, detail::did_you_mean(name, names)),
              "method text",
              fmt::format("known {}s: {}; see kvscope methods", what, fmt::join(names, ", ")));
}

/// One entry and one assignment of its parameters for each piece.
struct Recipe {
  std::vector<const PieceEntry*> entries;
  std::vector<std::map<std::string, std::string>> given;
};

void check_order(const Recipe& recipe) {
  const PieceEntry& first = *recipe.entries.front();
  KVSCOPE_CHECK(!first.closed || recipe.entries.size() == 1, ErrorCode::usage,
                fmt::format("'{}' takes no further pieces", first.info.name), "method text",
                fmt::format("write '{}' alone", first.info.name));
  for (std::size_t piece = 2; piece < recipe.entries.size(); ++piece) {
    const PieceInfo& before = recipe.entries[piece - 1]->info;
    const PieceInfo& here = recipe.entries[piece]->info;
    KVSCOPE_CHECK(
        before.kind < here.kind, ErrorCode::usage,
        fmt::format("'{}' cannot follow '{}'", here.name, before.name), "method text",
        "write SCORER | ALLOCATOR | SELECTOR | MERGER | REPRESENTATION | CADENCE, each at most "
        "once");
  }
}

Method assemble(const Recipe& recipe) {
  auto pieces = std::make_unique<Method::Pieces>();
  std::vector<std::string> texts;
  for (std::size_t piece = 0; piece < recipe.entries.size(); ++piece) {
    pieces->arguments.emplace_back(recipe.entries[piece]->info, recipe.given[piece]);
    recipe.entries[piece]->build(pieces->arguments.back(), pieces->parts);
    texts.push_back(pieces->arguments.back().canonical());
  }
  if (!pieces->parts.allocator) {
    pieces->parts.allocator = detail::make_uniform();
  }
  if (!pieces->parts.selector) {
    pieces->parts.selector = detail::make_top_k();
  }
  pieces->text = fmt::format("{}", fmt::join(texts, " | "));
  pieces->preset = recipe.entries.front()->info.name;
  pieces->scorer_text = texts.front();
  return Method(std::move(pieces));
}

}  // namespace

std::vector<Method> parse_methods(const std::string& text) {
  std::vector<Recipe> recipes(1);
  for (const PieceText& piece : detail::read_pieces(text)) {
    std::vector<Recipe> next;
    for (const Recipe& recipe : recipes) {
      for (const auto& assignment : detail::expand(piece)) {
        next.push_back(recipe);
        next.back().entries.push_back(&find_entry(piece.name, recipe.entries.empty()));
        next.back().given.push_back(assignment);
      }
    }
    recipes = std::move(next);
  }
  std::vector<Method> methods;
  for (const Recipe& recipe : recipes) {
    check_order(recipe);
    methods.push_back(assemble(recipe));
  }
  return methods;
}

}  // namespace kvscope
