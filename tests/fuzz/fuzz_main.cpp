#include "fuzz_targets.h"

/// libFuzzer's entry; KVSCOPE_FUZZ_TARGET names the function to drive.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  kvscope::fuzz::KVSCOPE_FUZZ_TARGET({data, size});
  return 0;
}
