#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "evaluation.h"

namespace kvscope::cli {

/// What the result of a cell depends on. Cells are told apart by model, prompt, method and keep;
/// the rest says whether a stored result is still theirs.
struct CellInputs {
  std::string model;  ///< its name in tables
  std::string model_hash;
  const PlannedPrompt& prompt;
  std::string method;
  std::string descriptor;  ///< of the method, as JSON: names the files it reads
  std::string keep;
  std::string settings;  ///< everything else: answer length, type, device, form, version

  /// 16 hex digits over all of it, the contents of calibrations included. Throws Error{io}.
  std::string hash() const;
  /// Name of the cell's file.
  std::string file_name() const;
};

/// Finished cells of a grid: one JSON file each, `FOLDER/cells/NAME.json`, written under a
/// temporary name and renamed, so that whatever is there is whole. One process at a time.
class EvaluationFolder {
 public:
  /// Makes the folder, and removes what a killed process left unfinished. `again`: stored results
  /// are not looked at.
  EvaluationFolder(std::string folder, bool again);

  /// The stored result, if it has these very inputs. A file that cannot be read counts as none.
  std::optional<EvaluatedRun> find(const CellInputs& cell) const;
  void write(const CellInputs& cell, const EvaluatedRun& run) const;
  /// Where a finished table of this format goes: text, markdown, json or csv.
  std::string table(const std::string& format) const;
  /// Where the calibration of a model goes that was not given.
  std::string calibration(const std::string& model) const;
  const std::string& path() const { return folder_; }

 private:
  std::string cell_path(const CellInputs& cell) const;

  std::string folder_;
  bool again_;
};

/// Whether -o names a folder: it is one, or has no file extension.
bool names_a_folder(const std::string& output);

}  // namespace kvscope::cli
