#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "fuzz_targets.h"

namespace kvscope {
namespace {

using Target = void (*)(std::span<const std::uint8_t>);
using Bytes = std::vector<std::uint8_t>;

struct Case {
  const char* name;
  Target target;
};

std::vector<Bytes> corpus(const std::string& name) {
  std::vector<Bytes> all;
  const std::filesystem::path folder =
      std::filesystem::path(KVSCOPE_SOURCE_DIR) / "tests/fuzz/corpus" / name;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    all.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return all;
}

class Corpus : public testing::TestWithParam<Case> {};

/// What the fuzzers start from and what they found once: read or refused, never a crash.
TEST_P(Corpus, IsReadOrRefused) {
  const auto inputs = corpus(GetParam().name);
  EXPECT_GE(inputs.size(), 2u);
  for (const Bytes& bytes : inputs) {
    EXPECT_NO_THROW(GetParam().target(bytes));
  }
}

/// The same with a few thousand seeded changes, without a fuzzer at hand.
TEST_P(Corpus, IsReadOrRefusedAfterChanges) {
  std::uint64_t state = 12345;
  const auto draw = [&](std::size_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(state >> 33) % bound;
  };
  for (const Bytes& bytes : corpus(GetParam().name)) {
    for (int round = 0; round < 300 && !bytes.empty(); ++round) {
      Bytes changed = bytes;
      for (std::size_t changes = 1 + draw(4); changes > 0; --changes) {
        changed[draw(changed.size())] = static_cast<std::uint8_t>(draw(256));
      }
      if (draw(4) == 0) {
        changed.resize(draw(changed.size()) + 1);
      }
      EXPECT_NO_THROW(GetParam().target(changed));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Readers, Corpus,
                         testing::Values(Case{"gguf", fuzz::gguf},
                                         Case{"safetensors", fuzz::safetensors},
                                         Case{"tokenizer_json", fuzz::tokenizer_json},
                                         Case{"tokenizer_model", fuzz::tokenizer_model},
                                         Case{"chat_template", fuzz::chat_template},
                                         Case{"hdf5", fuzz::hdf5}),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace kvscope
