#!/usr/bin/env bash
# demo_test.sh SOURCE PROGRAMS OUT: the steps of ./run demo on the real model, and what they leave behind.
set -euo pipefail
cd "$1"
readonly programs=$2 out=$3
source cmake/run/common.sh
source cmake/run/demo.sh

[ -f models/smollm2.gguf ] || die "models/smollm2.gguf is missing: ./run fetch smollm2"
demo_steps "$programs" models/smollm2.gguf "$out"

expect() { # expect FILE PATTERN
  grep -qE -- "$2" "$1" || die "$1 does not say $2"
}
for method in "${demo_methods[@]}"; do
  expect "$out/report.txt" "${method//|/ . }"
  expect "$out/generate.txt" "${method//|/ . }"
done
expect "$out/report.html" '</html>'
for file in "$out"/demo.capture.h5 "$out"/demo.*.decision.h5 "$out"/answers/live.*.decision.h5 "$out/demo.spectrum.h5"; do
  "$programs/kvscope" check "$file" >/dev/null || die "kvscope check $file found something"
done
decisions=("$out"/demo.*.decision.h5)
[ ${#decisions[@]} = ${#demo_methods[@]} ] || die "${#decisions[@]} decisions of ${#demo_methods[@]} methods"
if [ -x "$programs/kvscope-viewer" ]; then
  # PNG signature, then width 1600 and height 1000 in the header chunk.
  [ "$(head -c 24 "$out/demo.png" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a0000000d4948445200000640000003e8 ] ||
    die "$out/demo.png is no PNG of 1600 x 1000"
fi
