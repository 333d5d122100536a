#include "captured_method.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "console.h"
#include "decision_names.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/decision_file.h"

namespace kvscope::cli {

CapturedMethod::CapturedMethod(const std::string& text, const std::string& keep,
                               const RunPlan& plan, const std::string& output, bool force)
    : methods_(parse_methods(text)), budget_(Budget::parse(keep)), force_(force) {
  KVSCOPE_CHECK(methods_.size() == 1, ErrorCode::usage,
                fmt::format("'{}' stands for {} methods", text, methods_.size()), "--method",
                "one capture is one run: give one value to each parameter");
  check_method(method(), budget_, plan);
  decision_path_ = (std::filesystem::path(output).parent_path() /
                    decision_file_name(output, method().text(), budget_.text()))
                       .string();
  refuse_existing(decision_path_, force);
}

LiveRun& CapturedMethod::begin(std::unique_ptr<LiveRun> prefilled,
                               const std::function<std::unique_ptr<LiveRun>()>& fresh) {
  if (method().cuts_while_reading()) {
    prefilled.reset();
    run_ = fresh();
  } else {
    run_ = std::move(prefilled);
  }
  compressor_ = start_compressor(*run_, method(), budget_, {.scores = true});
  compressor_->prefill();
  return *run_;
}

void CapturedMethod::write() const {
  write_decision(decision_path_, compressor_->decision(), force_);
}

}  // namespace kvscope::cli
