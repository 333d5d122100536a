#include <memory>
#include <utility>

#include "kvscope/evidence/capture_run.h"
#include "kvscope/methods/method.h"
#include "pipeline.h"

namespace kvscope::bench {
namespace {

std::vector<Method> parse_all(const std::vector<std::string>& texts) {
  std::vector<Method> methods;
  for (const std::string& text : texts) {
    for (Method& method : parse_methods(text)) {
      methods.push_back(std::move(method));
    }
  }
  return methods;
}

/// Opens the capture anew, so that every call pays for its own reads.
double decide_seconds(const std::string& capture, const std::vector<std::string>& texts,
                      int threads) {
  const std::vector<Method> methods = parse_all(texts);
  const std::vector<Budget> budgets = {Budget::of_fraction(0.5)};
  DecideOptions options;
  options.threads = threads;
  return seconds([&] {
    CaptureRun run(std::make_shared<CaptureReader>(capture));
    decide_all(run, methods, budgets, options);
  });
}

}  // namespace

void measure_decide(const std::string& capture, const std::vector<std::string>& methods,
                    int threads, int rounds) {
  std::vector<std::vector<double>> alone(methods.size());
  std::vector<double> together;
  std::vector<double> separate;
  decide_seconds(capture, methods, threads);  // the file is in the page cache from here on
  for (int round = 0; round < rounds; ++round) {
    double sum = 0;
    for (std::size_t i = 0; i < methods.size(); ++i) {
      alone[i].push_back(decide_seconds(capture, {methods[i]}, threads));
      sum += alone[i].back();
    }
    separate.push_back(sum);
    together.push_back(decide_seconds(capture, methods, threads));
  }
  for (std::size_t i = 0; i < methods.size(); ++i) {
    print("decide." + methods[i], {{"seconds", median(alone[i])}, {"rounds", rounds}});
  }
  print("decide.one_call", {{"seconds", median(together)}, {"methods", methods.size()}});
  print("decide.separate_calls", {{"seconds", median(separate)}, {"methods", methods.size()}});
}

}  // namespace kvscope::bench
