# shellcheck shell=bash disable=SC2034,SC2154
# What kvscope is built from: Debian packages, and wheels from PyPI in .deps/. Everything is checked
# first, so that a second run needs no network.

readonly build_packages=(
  ca-certificates g++ cmake ninja-build ccache mold pkg-config python3-venv
  libhdf5-dev libeigen3-dev libcli11-dev nlohmann-json3-dev libfmt-dev libpcre2-dev libpng-dev
  libglfw3-dev libegl-dev libopengl-dev libgl-dev libegl1 libgl1-mesa-dri fonts-dejavu-core
  libgtest-dev libgmock-dev
)
readonly bench_packages=(libbenchmark-dev)
readonly lint_packages=(git clang-format clang-tidy shellcheck)

readonly torch_wheels=(torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
readonly imgui_sdist=imgui-bundle==1.93.0
readonly jinja_sdist=llama-cpp-python==0.3.36  # it carries llama.cpp's sources
readonly jinja_checksum=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
readonly snippet_wheels=(h5py==3.16.0 matplotlib==3.11.2)  # what README's Python snippet imports

# need_packages NAME...: installs what is missing as root, else prints the command and stops.
need_packages() {
  if ! command -v dpkg-query >/dev/null; then
    step "no dpkg here: these packages (Debian names) are taken to be installed: $*"
    return
  fi
  local missing=() name
  for name in "$@"; do
    case $(dpkg-query -W -f '${Status}' "$name" 2>/dev/null || true) in
      *' ok installed') ;;
      *) missing+=("$name") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local install=(apt-get install -y --no-install-recommends "${missing[@]}")
  [ "$(id -u)" = 0 ] || die "missing packages; run: sudo ${install[*]}"
  step "install ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local log
  log=$(mktemp)
  if ! { apt-get update && "${install[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "installing failed: ${missing[*]}"
  fi
  rm -f "$log"
}

# pip in .deps/venv, with its temporary files beside its target (large wheels; a rename, not a copy).
pip_run() {
  if [ ! -x .deps/venv/bin/pip ]; then
    rm -rf .deps/venv
    python3 -m venv .deps/venv || die "python3 -m venv failed; is python3-venv installed?"
  fi
  mkdir -p .deps/tmp
  TMPDIR=$PWD/.deps/tmp .deps/venv/bin/pip --disable-pip-version-check --no-input "$@"
}

# LibTorch: the PyPI wheel, unpacked. Its libraries find the two CUDA wheels beside it by their own RPATH.
need_libtorch() {
  if [ -n "${KVSCOPE_TORCH_DIR:-}" ]; then
    [ -f "$KVSCOPE_TORCH_DIR/lib/libtorch_cpu.so" ] || die "KVSCOPE_TORCH_DIR=$KVSCOPE_TORCH_DIR holds no lib/libtorch_cpu.so"
    cmake_options+=("-DKVSCOPE_TORCH_DIR=$KVSCOPE_TORCH_DIR")
    return
  fi
  local wanted="${torch_wheels[*]}"
  if [ "$(cat .deps/libtorch/versions.txt 2>/dev/null || true)" != "$wanted" ]; then
    step "fetch LibTorch (about 540 MB): $wanted"
    rm -rf .deps/libtorch .deps/libtorch.partial
    pip_run install --quiet --no-deps --no-compile --only-binary :all: --target .deps/libtorch.partial \
      "${torch_wheels[@]}" || die "could not fetch ${torch_wheels[*]} from the Python package index"
    printf '%s\n' "$wanted" >.deps/libtorch.partial/versions.txt
    mv .deps/libtorch.partial .deps/libtorch
  fi
  cmake_options+=("-DKVSCOPE_TORCH_DIR=$PWD/.deps/libtorch/torch")
}

# Dear ImGui, ImPlot and the ImGui test engine, as sources.
need_imgui() {
  if [ -n "${KVSCOPE_IMGUI_DIR:-}" ]; then
    [ -d "$KVSCOPE_IMGUI_DIR/external/imgui" ] || die "KVSCOPE_IMGUI_DIR=$KVSCOPE_IMGUI_DIR holds no external/imgui"
    cmake_options+=("-DKVSCOPE_IMGUI_DIR=$KVSCOPE_IMGUI_DIR")
    return
  fi
  if [ "$(cat .deps/imgui-bundle/versions.txt 2>/dev/null || true)" != "$imgui_sdist" ]; then
    step "fetch Dear ImGui and ImPlot (54 MB): $imgui_sdist"
    rm -rf .deps/imgui-bundle .deps/imgui-bundle.partial
    mkdir -p .deps/imgui-bundle.partial
    pip_run download --quiet --no-deps --no-binary imgui-bundle --dest .deps/imgui-bundle.partial "$imgui_sdist" ||
      die "could not fetch the source archive of $imgui_sdist from the Python package index"
    tar -C .deps/imgui-bundle.partial --strip-components=1 -xzf .deps/imgui-bundle.partial/imgui_bundle-*.tar.gz
    rm -f .deps/imgui-bundle.partial/imgui_bundle-*.tar.gz
    printf '%s\n' "$imgui_sdist" >.deps/imgui-bundle.partial/versions.txt
    mv .deps/imgui-bundle.partial .deps/imgui-bundle
  fi
  cmake_options+=("-DKVSCOPE_IMGUI_DIR=$PWD/.deps/imgui-bundle")
}

# The Jinja engine of llama.cpp, as sources: chat templates are rendered with it.
need_jinja() {
  if [ -n "${KVSCOPE_JINJA_DIR:-}" ]; then
    [ -f "$KVSCOPE_JINJA_DIR/jinja/runtime.h" ] || die "KVSCOPE_JINJA_DIR=$KVSCOPE_JINJA_DIR holds no jinja/runtime.h"
    cmake_options+=("-DKVSCOPE_JINJA_DIR=$KVSCOPE_JINJA_DIR")
    return
  fi
  if [ "$(cat .deps/jinja/versions.txt 2>/dev/null || true)" != "$jinja_sdist" ]; then
    step "fetch llama.cpp's Jinja engine (77 MB, 0.3 MB of which stay): $jinja_sdist"
    local partial=.deps/jinja.partial
    local archive=$partial/llama_cpp_python-${jinja_sdist##*=}.tar.gz
    rm -rf .deps/jinja "$partial"
    mkdir -p "$partial"
    pip_run download --quiet --no-deps --no-binary llama-cpp-python --dest "$partial" "$jinja_sdist" ||
      die "could not fetch the source archive of $jinja_sdist from the Python package index"
    [ "$(checksum "$archive")" = "$jinja_checksum" ] || die "$jinja_sdist: the fetched archive has a wrong checksum"
    tar -C "$partial" --strip-components=4 --wildcards -xzf "$archive" '*/llama.cpp/common/jinja/*' '*/llama.cpp/common/json.*' \
      '*/llama.cpp/common/unicode.*'
    tar -C "$partial" --strip-components=3 --wildcards -xzf "$archive" '*/vendor/llama.cpp/LICENSE'
    rm -f "$archive"
    printf '%s\n' "$jinja_sdist" >"$partial/versions.txt"
    mv "$partial" .deps/jinja
  fi
  cmake_options+=("-DKVSCOPE_JINJA_DIR=$PWD/.deps/jinja")
}

# The Python of the test that runs README's snippet: .deps/venv.
need_snippet_python() {
  local wanted="${snippet_wheels[*]}"
  [ "$(cat .deps/venv/snippet.txt 2>/dev/null || true)" != "$wanted" ] || return 0
  step "fetch for the test of the Python snippet: $wanted"
  pip_run install --quiet "${snippet_wheels[@]}" || die "could not fetch $wanted from the Python package index"
  printf '%s\n' "$wanted" >.deps/venv/snippet.txt
}
