# shellcheck shell=bash disable=SC2034,SC2154
# Messages, exit codes and settings of ./run.

jobs=${KVSCOPE_JOBS:-$(nproc 2>/dev/null || echo 2)}
readonly jobs
cmake_options=()
if [ -n "${KVSCOPE_WERROR:-}" ]; then
  cmake_options+=("-DKVSCOPE_WERROR=$KVSCOPE_WERROR")
fi

step() { printf '== %s\n' "$*" >&2; }
die() { # failed: exit 1
  printf 'run: %s\n' "$*" >&2
  exit 1
}
wrong() { # wrong usage: exit 2
  printf 'run: %s\n' "$*" >&2
  exit 2
}

# The SHA-256 of a file.
checksum() { sha256sum "$1" | cut -d' ' -f1; }
