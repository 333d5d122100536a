#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvscope/methods/method.h"
#include "kvscope/runtime/live_run.h"

namespace kvscope::cli {

/// The method under which a run is captured: `capture --method M --keep K`. The prompt's planes are
/// those of the full cache; the cut, and every decode step behind it, are the method's.
class CapturedMethod {
 public:
  /// Throws Error{usage} if the text stands for several methods, or one that cannot meet the budget
  /// on such a run; nothing is computed. `output` is the capture's path: the decision goes beside
  /// it.
  CapturedMethod(const std::string& text, const std::string& keep, const RunPlan& plan,
                 const std::string& output, bool force);

  const Method& method() const { return methods_.front(); }
  const Budget& budget() const { return budget_; }
  const std::string& decision_path() const { return decision_path_; }

  /// Cuts `prefilled`, which has read its prompt; a method that cuts while it reads begins a run
  /// of its own with `fresh`. Returns the run to decode on, which lives here.
  LiveRun& begin(std::unique_ptr<LiveRun> prefilled,
                 const std::function<std::unique_ptr<LiveRun>()>& fresh);
  /// After each decoded token.
  void after_step() { compressor_->after_step(); }
  /// Everything decided, in its file.
  void write() const;

 private:
  std::vector<Method> methods_;
  Budget budget_;
  std::string decision_path_;
  bool force_;
  std::unique_ptr<LiveRun> run_;
  std::unique_ptr<Compressor> compressor_;
};

}  // namespace kvscope::cli
