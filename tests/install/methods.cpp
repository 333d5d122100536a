#include <kvscope/methods/method.h>

#include <cstdio>

int count_methods() {
  const kvscope::Method method = std::move(kvscope::parse_methods("snapkv:window=16").at(0));
  std::printf("%s, one of %zu pieces and presets\n", method.text().c_str(),
              kvscope::registry().size());
  return static_cast<int>(kvscope::registry().size());
}
