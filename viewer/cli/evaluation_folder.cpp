#include "evaluation_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "console.h"
#include "decision_names.h"
#include "kvscope/core/error.h"

namespace kvscope::cli {
namespace {

/// FNV-1a over texts, each with its length, so that they cannot run into each other.
class Hash {
 public:
  void add(const std::string& text) {
    std::uint64_t size = text.size();
    for (int byte = 0; byte < 8; ++byte, size >>= 8) {
      add_byte(static_cast<unsigned char>(size & 0xFF));
    }
    for (const char character : text) {
      add_byte(static_cast<unsigned char>(character));
    }
  }
  std::uint64_t value() const { return value_; }

 private:
  void add_byte(unsigned char byte) { value_ = (value_ ^ byte) * 1099511628211u; }
  std::uint64_t value_ = 14695981039346656037u;
};

std::string readable(const std::string& text) {
  std::string result;
  for (const char character : text) {
    if (std::isalnum(static_cast<unsigned char>(character)) != 0 || character == '_') {
      result += character;
    } else if (!result.empty() && result.back() != '-') {
      result += '-';
    }
  }
  result.resize(std::min<std::size_t>(result.size(), 60));
  return result;
}

/// Files that the method's pieces read.
std::vector<std::string> calibrations(const std::string& descriptor) {
  std::vector<std::string> paths;
  const nlohmann::json method = nlohmann::json::parse(descriptor);
  for (const nlohmann::json& piece : method.at("pieces")) {
    for (const nlohmann::json& parameter : piece.at("parameters")) {
      if (parameter.at("name") == "calibration" && !parameter.at("value").empty() &&
          parameter.at("value").is_string() && parameter.at("value") != "") {
        paths.push_back(parameter.at("value"));
      }
    }
  }
  return paths;
}

}  // namespace

std::string CellInputs::hash() const {
  Hash hash;
  for (const std::string& text :
       {model_hash, prompt.text, prompt.needle, prompt.question, prompt.answer, method, descriptor,
        keep, settings}) {
    hash.add(text);
  }
  for (const std::string& path : calibrations(descriptor)) {
    hash.add(read_text_file(path, std::int64_t{1} << 32));
  }
  return fmt::format("{:016x}", hash.value());
}

std::string CellInputs::file_name() const {
  Hash hash;
  for (const std::string& text : {model, prompt.name, method, keep}) {
    hash.add(text);
  }
  return fmt::format("{}.{}.{}-{:06x}@{}.json", readable(model), readable(prompt.name),
                     readable(method), hash.value() & 0xFFFFFF, keep);
}

EvaluationFolder::EvaluationFolder(std::string folder, bool again)
    : folder_(std::move(folder)), again_(again) {
  const std::filesystem::path cells = std::filesystem::path(folder_) / "cells";
  make_folder(cells.string());
  std::vector<std::filesystem::path> unfinished;
  for (const auto& entry : std::filesystem::directory_iterator(cells)) {
    if (entry.path().extension() == ".tmp") {
      unfinished.push_back(entry.path());
    }
  }
  for (const std::filesystem::path& path : unfinished) {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
}

std::string EvaluationFolder::cell_path(const CellInputs& cell) const {
  return (std::filesystem::path(folder_) / "cells" / cell.file_name()).string();
}

std::optional<EvaluatedRun> EvaluationFolder::find(const CellInputs& cell) const {
  const std::string path = cell_path(cell);
  if (again_ || !std::filesystem::exists(path)) {
    return std::nullopt;
  }
  try {
    const auto stored = nlohmann::ordered_json::parse(read_text_file(path));
    if (stored.at("format") != "kvscope.cell" || stored.at("version_major") != 1 ||
        stored.at("inputs") != cell.hash()) {
      return std::nullopt;
    }
    return run_of_json(stored.at("run"));
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

void EvaluationFolder::write(const CellInputs& cell, const EvaluatedRun& run) const {
  const nlohmann::ordered_json json = {{"format", "kvscope.cell"},
                                       {"version_major", 1},
                                       {"inputs", cell.hash()},
                                       {"run", run_json(run)}};
  write_text_file(cell_path(cell),
                  json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n", true);
}

std::string EvaluationFolder::table(const std::string& format) const {
  const std::string extension = format == "markdown" ? "md" : format == "text" ? "txt" : format;
  return (std::filesystem::path(folder_) / ("evaluation." + extension)).string();
}

std::string EvaluationFolder::calibration(const std::string& model) const {
  return (std::filesystem::path(folder_) / (readable(model) + ".calibration.h5")).string();
}

bool names_a_folder(const std::string& output) {
  const std::filesystem::path path(output);
  return std::filesystem::is_directory(path) || !path.has_filename() || !path.has_extension();
}

}  // namespace kvscope::cli
