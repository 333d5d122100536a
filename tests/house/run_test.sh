#!/usr/bin/env bash
# run_test.sh SOURCE: what ./run answers before it does any work.
set -euo pipefail
cd "$1"

expect() { # expect STATUS TEXT ARGUMENT...
  local status=0 wanted=$1 text=$2 output
  shift 2
  output=$(./run "$@" 2>&1) || status=$?
  if [ "$status" != "$wanted" ] || [[ $output != *"$text"* ]]; then
    printf './run %s: status %s instead of %s, or no "%s" in:\n%s\n' "$*" "$status" "$wanted" "$text" "$output"
    exit 1
  fi
}

expect 0 'usage: ./run VERB'
expect 0 'usage: ./run VERB' help
expect 2 "no verb 'tset'" tset
expect 2 "no model 'gpt5'; known: smollm2, gemma3-270m" fetch gpt5
expect 2 "clean takes --all or nothing" clean everything
expect 2 "bench takes" bench --quick
expect 2 "lint takes" lint everything
expect 2 "demo takes no argument" demo now
expect 2 "no fuzz target 'hdf'; known: gguf" fuzz hdf
expect 2 "fuzz takes a number of seconds" fuzz gguf soon
for verb in demo test build fetch bench fuzz lint clean; do
  expect 0 "  $verb " help
done
if command -v shellcheck >/dev/null; then
  shellcheck -x run .ci/run cmake/run/*.sh tests/house/*.sh
fi
