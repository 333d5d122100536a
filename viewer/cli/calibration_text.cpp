#include "calibration_text.h"

#include <fmt/format.h>

#include "console.h"
#include "kvscope/core/error.h"
#include "kvscope/model/model_file.h"
#include "kvscope/model/tokenizer.h"
#include "kvscope/runtime/calibrate.h"

namespace kvscope::cli {

CalibrationText read_calibration_text(const std::vector<std::string>& files,
                                      const ModelFile& model) {
  const auto tokenizer = model.tokenizer();
  const std::vector<std::int32_t> probe = tokenizer->encode("a", false, true);
  CalibrationText text;
  const bool begins = tokenizer->bos() >= 0 && !probe.empty() && probe.front() == tokenizer->bos();
  text.bos = begins ? tokenizer->bos() : -1;
  for (const std::string& file : files) {
    const std::vector<std::int32_t> ids = tokenizer->encode(read_text_file(file), false, false);
    KVSCOPE_CHECK(!ids.empty(), ErrorCode::usage, "the text is empty", file, "give it some text");
    text.ids.insert(text.ids.end(), ids.begin(), ids.end());
  }
  const std::int64_t least = CalibrateOptions{}.least_tokens;
  KVSCOPE_CHECK(
      static_cast<std::int64_t>(text.ids.size()) >= least, ErrorCode::usage,
      fmt::format("the corpus has {} tokens; at least {} are needed", text.ids.size(), least),
      files.empty() ? "" : files.front(),
      "give more text, -f FILE -f FILE, of the kind the model will see");
  return text;
}

Calibration calibrate_on(const std::shared_ptr<const Model>& model, const CalibrationText& text,
                         int window) {
  CalibrateOptions options;
  options.window = window;
  options.bos = text.bos;
  options.stop = &stop_requested();
  Progress progress("calibrate", "tokens");
  options.progress = [&](std::int64_t done, std::int64_t total) {
    progress.update(static_cast<double>(done), static_cast<double>(total));
  };
  return calibrate(model, text.ids, options);
}

}  // namespace kvscope::cli
