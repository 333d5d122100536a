#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include "attached_run_impl.h"
#include "kvscope/core/error.h"
#include "kvscope/storage/decision_file.h"
#include "output_files.h"

namespace kvscope {

void AttachedRun::Impl::guard(const std::function<void()>& work) {
  if (status != Status::running) {
    return;
  }
  const at::NoGradGuard no_grad;
  std::string lines;
  CaptureState state = CaptureState::error;
  bool refused = seen_ == 0;
  try {
    work();
    return;
  } catch (const Error& thrown) {
    lines = error_lines(thrown);
    state = state_after(thrown);
    refused = refused && (recorder_ == nullptr || thrown.code() != ErrorCode::io);
  } catch (const std::exception& thrown) {  // above all: out of memory, in LibTorch or in ours
    lines = error_lines(thrown);
    refused = false;
  }
  if (recorder_) {
    recorder_->stop(state, lines.substr(0, lines.find('\n')));
    recorder_.reset();
  }
  status = refused ? Status::refused : Status::ended;
  error = std::move(lines);
  pass_.reset();
  held_.clear();
  reader_.reset();
}

AttachedReport AttachedRun::Impl::report() const {
  AttachedReport report;
  report.profile = profile_name(request_.capture.profile);
  report.prompt_tokens = prompt_ ? prompt_->prompt_tokens : 0;
  report.steps = steps_;
  report.notes = notes_;
  report.error = error;
  const bool left = error.empty() || request_.capture.live;  // a batch file is whole or not there
  report.path =
      left && index_.prompt_tokens > 0 && detail::exists(request_.path) ? request_.path : "";
  return report;
}

std::string AttachedRun::Impl::write_decision_file() const {
  if (reader_->cuts().empty()) {
    return {};
  }
  const std::string path = detail::decision_path(request_.path);
  write_decision(path, reader_->cuts().decision(index_, prompt_->prompt_tokens + steps_),
                 request_.capture.force);
  return path;
}

AttachedReport AttachedRun::Impl::finish() {
  std::int64_t dropped = 0;
  std::string decision_path;
  guard([&] {
    KVSCOPE_CHECK(
        recorder_ && !in_prompt(), ErrorCode::failed,
        recorder_ ? fmt::format("{} of {} prompt tokens were read", seen_, prompt_->prompt_tokens)
                  : std::string("the model was not run"),
        request_.path, "run the model inside the capture");
    std::string message;
    if (beyond_ > 0) {
      message = fmt::format(
          "the run went on for {} tokens beyond the {} that were planned; plan more with "
          "new_tokens",
          beyond_, request_.capture.new_tokens);
      notes_.push_back(message);
    }
    if (!recorder_->first_nonfinite().empty()) {
      notes_.push_back("numbers are not finite, first in " + recorder_->first_nonfinite());
    }
    recorder_->finish(steps_, message);
    dropped = recorder_->dropped_bytes();
    if (dropped > 0) {
      notes_.push_back(
          fmt::format("the disk was slower than the run: {} bytes were left out, listed "
                      "in /status/dropped",
                      dropped));
    }
    decision_path = write_decision_file();
  });
  AttachedReport report = this->report();
  report.dropped_bytes = dropped;
  report.decision_path = decision_path;
  recorder_.reset();
  status = Status::ended;
  return report;
}

AttachedReport AttachedRun::Impl::stop(CaptureState state, const std::string& message) {
  if (recorder_) {
    recorder_->stop(state, message);
    recorder_.reset();
  }
  status = Status::ended;
  return report();
}

AttachedRun::AttachedRun(AttachRequest request, std::vector<at::Tensor> output_weights)
    : impl_(std::make_unique<Impl>(std::move(request), std::move(output_weights))) {}

AttachedRun::~AttachedRun() = default;

void AttachedRun::give_prompt(const FedTokens& prompt, int context_tokens) {
  impl_->guard([&] { impl_->give_prompt(prompt, context_tokens); });
}

void AttachedRun::name_method(const std::string& method) {
  impl_->guard([&] { impl_->name_method(method); });
}

void AttachedRun::begin_pass(const FedTokens& tokens) {
  impl_->guard([&] { impl_->begin_pass(tokens); });
}

void AttachedRun::attention(const AttentionCall& call) {
  impl_->guard([&] { impl_->attention(call); });
}

void AttachedRun::hook(const std::string& point, int layer, const at::Tensor& tensor) {
  impl_->guard([&] { impl_->hook(point, layer, tensor); });
}

void AttachedRun::end_pass(const at::Tensor& logits) {
  impl_->guard([&] { impl_->end_pass(logits); });
}

AttachedRun::Status AttachedRun::status() const {
  return impl_->status;
}

std::string AttachedRun::error() const {
  return impl_->error;
}

AttachedReport AttachedRun::finish() {
  return impl_->finish();
}

AttachedReport AttachedRun::stop(CaptureState state, const std::string& message) {
  return impl_->stop(state, message);
}

}  // namespace kvscope
