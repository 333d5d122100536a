# shellcheck shell=bash disable=SC2034,SC2154
# ./run bench: our benchmarks, and other libraries beside them.

readonly peer_packages=(torch==2.11.0 'transformers==5.2.0' kvpress==0.5.5 'pandas<3' h5py gguf sentencepiece)

# need_peers WITH_LLAMA: a Python environment of the peers' own; sets peer_python.
need_peers() {
  if [ -n "${KVSCOPE_BENCH_PYTHON:-}" ]; then
    peer_python=$KVSCOPE_BENCH_PYTHON
    return
  fi
  peer_python=$PWD/.bench-venv/bin/python
  if [ ! -f .bench-venv/complete ]; then
    step "install the peers (5 GB): ${peer_packages[*]}"
    rm -rf .bench-venv
    python3 -m venv .bench-venv
    .bench-venv/bin/pip install --quiet --disable-pip-version-check "${peer_packages[@]}" || die "could not install the peers"
    touch .bench-venv/complete
  fi
  if [ "$1" = yes ] && ! "$peer_python" -c 'import llama_cpp' 2>/dev/null; then
    step "build llama.cpp (minutes): llama-cpp-python==0.3.36"
    CMAKE_ARGS=-DGGML_NATIVE=ON .bench-venv/bin/pip install --quiet --disable-pip-version-check --no-binary llama-cpp-python \
      llama-cpp-python==0.3.36 || die "could not build llama-cpp-python"
  fi
}

# need_weightwatcher: an environment that adds WeightWatcher to the peers'; sets weightwatcher_python.
need_weightwatcher() {
  if [ -n "${KVSCOPE_BENCH_WEIGHTWATCHER:-}" ]; then
    weightwatcher_python=$KVSCOPE_BENCH_WEIGHTWATCHER
    return
  fi
  weightwatcher_python=$PWD/.bench-venv/weightwatcher/bin/python
  if [ ! -f .bench-venv/weightwatcher/complete ]; then
    step "install weightwatcher==0.7.7 beside the peers"
    rm -rf .bench-venv/weightwatcher
    "$peer_python" -m venv .bench-venv/weightwatcher
    "$peer_python" -c 'import site; print(site.getsitepackages()[0])' \
      >"$("$weightwatcher_python" -c 'import site; print(site.getsitepackages()[0])')/peers.pth"
    "$weightwatcher_python" -m pip install --quiet --disable-pip-version-check --no-deps weightwatcher==0.7.7 powerlaw \
      scikit-learn scipy joblib threadpoolctl mpmath cloudpickle loky matplotlib-inline ipython narwhals matplotlib contourpy cycler \
      fonttools kiwisolver pyparsing pillow python-dateutil six ||
      die "could not install weightwatcher"
    touch .bench-venv/weightwatcher/complete
  fi
}

do_bench() {
  local peers=no llama=no record=no argument
  for argument in "$@"; do
    case $argument in
      --peers) peers=yes ;;
      --llama) peers=yes llama=yes ;;
      --record) record=yes ;;
      *) wrong "bench takes --peers, --llama and --record, not '$argument'" ;;
    esac
  done
  need_packages "${bench_packages[@]}"
  cmake_options+=(-DKVSCOPE_BENCHMARKS=ON)
  do_build all
  fetch_model smollm2
  local program
  for program in build/bench/*_bench; do
    [ -x "$program" ] || continue
    step "$program"
    "$program" --benchmark_counters_tabular=true
  done
  local options=(--build build --model models/smollm2.gguf --out build/bench-results)
  if [ "$peers" = yes ]; then
    need_peers "$llama"
    options+=(--peers "$peer_python")
    [ "$llama" = no ] || options+=(--llama)
  fi
  step "the main job on SmolLM2-135M"
  python3 tests/bench/bench.py "${options[@]}"
  local spectral=(--build build --model models/smollm2.gguf --out build/bench-results)
  if [ "$peers" = yes ]; then
    need_weightwatcher
    spectral+=(--peers "$weightwatcher_python")
  fi
  step "spectra of SmolLM2-135M and of a 4096 x 4096 matrix"
  python3 tests/bench/spectral.py "${spectral[@]}"
  if [ "$record" = yes ]; then
    cp build/bench-results/RESULTS.md tests/bench/RESULTS.md
    cp build/bench-results/SPECTRAL.md tests/bench/SPECTRAL.md
  fi
}
