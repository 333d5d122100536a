#include <algorithm>

#include "kvscope/methods/method.h"
#include "kvscope/runtime/live_run.h"
#include "pipeline.h"

namespace kvscope::bench {

void measure_merging(const std::shared_ptr<const Model>& model, const TokenTable& prompt,
                     const std::string& text, int rounds) {
  constexpr int chunk = 512;  // of the authors' code
  const std::vector<Method> methods = parse_methods(text);
  const Budget budget = Budget::parse(std::to_string(prompt.size()));
  LiveRunOptions options;
  options.prefill_chunk = chunk;
  std::vector<double> plain;
  std::vector<double> merging;
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    plain.push_back(
        seconds([&] { LiveRun::start(model, prompt, options)->prefill(false, nullptr); }));
    merging.push_back(seconds([&] {
      const auto run = LiveRun::start(model, prompt, {});
      compress(*run, methods.front(), budget);
    }));
    ratios.push_back(merging.back() / plain.back());
  }
  print("merging." + text, {{"tokens", prompt.size()},
                            {"rounds", rounds},
                            {"plain_seconds", median(plain)},
                            {"seconds", median(merging)},
                            {"ratio", median(ratios)},
                            {"peak_mib", peak_memory_mib()}});
}

}  // namespace kvscope::bench
