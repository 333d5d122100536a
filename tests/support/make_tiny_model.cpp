#include <cstdio>

#include "tiny_model.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: make_tiny_model OUT.gguf\n", stderr);
    return 2;
  }
  kvscope::test::write_tiny_model(argv[1]);
  return 0;
}
