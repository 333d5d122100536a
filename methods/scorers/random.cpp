#include <ATen/ops/empty.h>

#include <cstdint>

#include "registry/entry.h"
#include "scorers/draws.h"
#include "scorers/reduce.h"

namespace kvscope::detail {
namespace {

/// Uniform draws keyed by (seed, layer, KV head, token): no call order, no shared generator.
class Random : public Scorer {
 public:
  explicit Random(std::uint64_t seed) : seed_(seed) {}

  LayerScores score(const LayerEvidence& evidence, bool) const override {
    const int tokens = live_slots(evidence);
    const int kv_heads = evidence.shape().kv_heads;
    at::Tensor scores = at::empty({kv_heads, tokens});
    float* out = scores.data_ptr<float>();
    const std::uint64_t base = mix(seed_ ^ mix(evidence.random_seed()));
    const auto layer = static_cast<std::uint64_t>(evidence.moment().layer);
    for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
      const std::uint64_t key =
          mix(base ^ mix((layer << 32) | static_cast<std::uint64_t>(kv_head)));
      for (int token = 0; token < tokens; ++token) {
        *out++ = uniform_draw(key + static_cast<std::uint64_t>(token));
      }
    }
    return {scores, scores.unsqueeze(0)};
  }

 private:
  std::uint64_t seed_;
};

}  // namespace

PieceEntry random_entry() {
  PieceEntry entry;
  entry.info.name = "random";
  entry.info.summary = "keeps tokens by chance: the control any method has to beat";
  entry.info.departures =
      "kvpress seeds one generator at every call, so its layers share scores; ours differ";
  entry.info.scope = "model";
  entry.info.parameters = {integer_parameter("seed", 0, "0..", "", "another draw")};
  entry.info.terms = {{"draw", "uniform in [0, 1)"}};
  entry.info.combine = "draw";
  entry.build = [](const Arguments& arguments, Parts& parts) {
    parts.scorer = std::make_unique<Random>(static_cast<std::uint64_t>(arguments.integer("seed")));
  };
  return entry;
}

}  // namespace kvscope::detail
