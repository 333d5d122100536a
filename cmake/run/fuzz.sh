# shellcheck shell=bash disable=SC2034,SC2154
# ./run fuzz NAME SECONDS: libFuzzer with the address and undefined-behaviour sanitizers.

fuzz_names() { # the targets that CMake knows, one a line
  sed -n 's/^ *foreach(name \(.*\))$/\1/p' tests/fuzz/CMakeLists.txt | tr ' ' '\n'
}

do_fuzz() {
  local name=${1:-} seconds=${2:-60}
  local known
  known=$(fuzz_names | paste -sd, | sed 's/,/, /g')
  fuzz_names | grep -qx -- "$name" || wrong "no fuzz target '$name'; known: $known"
  [[ $seconds =~ ^[1-9][0-9]*$ ]] || wrong "fuzz takes a number of seconds, not '$seconds'"
  need_packages "${build_packages[@]}" clang
  need_jinja
  step "build fuzz_$name (build-fuzz/)"
  cmake -S . -B build-fuzz -G Ninja "${cmake_options[@]}" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
    -DCMAKE_CXX_FLAGS=-fsanitize=fuzzer-no-link -DKVSCOPE_SANITIZE=address,undefined -DKVSCOPE_FUZZ=ON -DKVSCOPE_TESTS=ON \
    -DKVSCOPE_TORCH=OFF -DKVSCOPE_CUDA=OFF -DKVSCOPE_VIEWER=OFF >/dev/null || die "configuring failed"
  cmake --build build-fuzz --parallel "$jobs" --target "fuzz_$name"
  # New inputs go to a folder of their own: the committed corpus stays as small as it is.
  mkdir -p "build-fuzz/found/$name"
  step "fuzz $name for $seconds s; crashes go to build-fuzz/found/"
  build-fuzz/fuzz/"fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="build-fuzz/found/$name-" "build-fuzz/found/$name" "tests/fuzz/corpus/$name"
}
