#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <new>

#include "kvscope/core/error.h"
#include "kvscope/storage/capture_reader.h"
#include "kvscope/storage/capture_state.h"
#include "recorded_run.h"

namespace kvscope::test {
namespace {

/// A live capture of a run whose memory runs out in layer 1 of its third step, in the way `exhaust`
/// does it. Returns what the run threw.
template <typename Exhaust>
Error run_out(const std::string& path, const Exhaust& exhaust) {
  const auto model = fake_model();
  const TokenTable prompt = fake_prompt(9);
  CaptureRequest request;
  request.windows = {4};
  request.new_tokens = 5;
  request.live = true;
  LiveRunOptions options;
  options.hook = [&](HookPoint, int layer, int first_token, const at::Tensor&) {
    if (layer == 1 && first_token == 11) {
      exhaust();
    }
  };
  auto run = LiveRun::start(model, prompt, options);
  Recorder recorder(
      path, request, index_for(*model, prompt, request), prompt,
      [&](int layer) { return model->output_factor(layer); },
      [&](int layer) { return model->output_weights(layer); });
  try {
    run->prefill(false, &recorder);
    for (int step = 1; step <= 5; ++step) {
      run->decode(2 + step, &recorder);
    }
  } catch (const Error& error) {
    recorder.stop(CaptureState::error, error.message());
    return error;
  }
  return Error(ErrorCode::interrupted, "it did not run out of memory");
}

void expect_stopped_whole(const std::string& path, const Error& error) {
  EXPECT_EQ(error.code(), ErrorCode::failed) << error.message();
  EXPECT_NE(error.message().find("out of memory: the process holds"), std::string::npos)
      << error.message();
  EXPECT_EQ(error.where(), "layer 1 of 2, tokens 11 to 11");
  EXPECT_NE(error.fix().find("--chunk"), std::string::npos);
  const CaptureReader reader(path);
  EXPECT_EQ(reader.index().state, static_cast<int>(CaptureState::error));
  EXPECT_EQ(reader.index().message, error.message());
  EXPECT_EQ(reader.index().steps, 2) << "the whole steps before it are committed";
  EXPECT_EQ(reader.tokens().size(), 11);
}

TEST(RunFaults, OutOfMemoryOfTheTensorLibraryEndsAtALayer) {
  const CaptureFolder folder;
  const Error error =
      run_out(folder / "x.capture.h5", [] { at::empty({std::int64_t{1} << 55}, at::kFloat); });
  expect_stopped_whole(folder / "x.capture.h5", error);
  EXPECT_NE(error.message().find("bytes were asked for"), std::string::npos) << error.message();
}

TEST(RunFaults, OutOfMemoryOfOursEndsAtALayer) {
  const CaptureFolder folder;
  const Error error = run_out(folder / "x.capture.h5", [] { throw std::bad_alloc(); });
  expect_stopped_whole(folder / "x.capture.h5", error);
}

TEST(RunFaults, OtherErrorsStayWhatTheyAre) {
  const CaptureFolder folder;
  const Error error = run_out(folder / "x.capture.h5",
                              [] { throw Error(ErrorCode::unsupported, "something else"); });
  EXPECT_EQ(error.code(), ErrorCode::unsupported);
  EXPECT_EQ(error.message(), "something else");
}

TEST(RunFaults, TokensBeyondTheContextAreAllowedWhenAskedFor) {
  const auto model = fake_model();  // made for 64 tokens
  const TokenTable prompt = fake_prompt(70);
  EXPECT_THROW(LiveRun::start(model, prompt, {}), Error);
  LiveRunOptions options;
  options.beyond_context = true;
  auto run = LiveRun::start(model, prompt, options);
  run->prefill(false, nullptr);
  run->decode(3, nullptr);
  EXPECT_EQ(run->tokens_seen(), 71);
  auto within = LiveRun::start(model, fake_prompt(64), {});
  within->prefill(false, nullptr);
  try {
    within->decode(3, nullptr);
    FAIL() << "token 65 of 64";
  } catch (const Error& error) {
    EXPECT_NE(error.fix().find("--allow-beyond-context"), std::string::npos);
  }
}

}  // namespace
}  // namespace kvscope::test
