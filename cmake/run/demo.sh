# shellcheck shell=bash disable=SC2034,SC2154
# ./run demo: the whole pipeline on a real model; everything it makes lies in demo/.

readonly demo_methods=(streaming_llm knorm snapkv pyramidkv adakv laprox 'snapkv|nearest_key')

do_demo() {
  [ $# -eq 0 ] || wrong "demo takes no argument"
  do_build programs
  fetch_model smollm2
  demo_steps build/bin models/smollm2.gguf demo
  if [ -x build/bin/kvscope-viewer ] && [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
    step "view: the window"
    build/bin/kvscope view demo/demo.capture.h5 demo/demo.*.decision.h5 demo/demo.spectrum.h5 demo/answers/answers.json
  fi
}

# demo_steps PROGRAMS MODEL OUT
demo_steps() {
  local kvscope=$1/kvscope model=$2 folder=$3
  local prompt=(-f data/demo/passage.txt --question "$(cat data/demo/question.txt)" --chat)
  local find=(--find "$(cat data/demo/fact.txt)")
  local methods=(-m "${demo_methods[@]}" --keep 0.2)
  rm -rf "$folder"
  mkdir -p "$folder"

  step "capture: one run of the model, written down"
  "$kvscope" capture "$model" "${prompt[@]}" --profile qkv --new-tokens 24 -o "$folder/demo.capture.h5"
  step "decide: what each method keeps of it, at a fifth of the cache"
  "$kvscope" decide "$folder/demo.capture.h5" "${methods[@]}" --scores -o "$folder"
  step "generate: the answer with the full and with each smaller cache"
  "$kvscope" generate "$model" "${prompt[@]}" "${methods[@]}" --new-tokens 24 -o "$folder/answers" | tee "$folder/generate.txt"
  step "spectral: eigen-analysis of the projections"
  "$kvscope" spectral "$model" -o "$folder/demo.spectrum.h5" >"$folder/spectral.txt"
  step "report: what was lost, and what it costs"
  local report=(report "$folder/demo.capture.h5" "$folder"/demo.*.decision.h5 "${find[@]}" --answers "$folder/answers/answers.json")
  "$kvscope" "${report[@]}" | tee "$folder/report.txt"
  "$kvscope" "${report[@]}" --format html >"$folder/report.html"
  if [ -x "$1/kvscope-viewer" ]; then
    step "view: the picture"
    "$kvscope" view "$folder/demo.capture.h5" "$folder"/demo.*.decision.h5 "$folder/demo.spectrum.h5" "$folder/answers/answers.json" \
      "${find[@]}" --render "$folder/demo.png" --size 1600x1000
  fi
  cat <<TEXT

Everything is in $folder/:
  demo.capture.h5          the run: tokens, keys, values, queries, attention sums
  demo.*.decision.h5       one fate and one reason for each token, KV head and layer, by method
  demo.spectrum.h5         spectra of the projection weights (table: spectral.txt)
  report.txt report.html   budgets, fates, output error, what became of the fact
  generate.txt answers/    the answers, full cache against compressed; the live decisions
  demo.png                 the viewer

Look around:  $kvscope view $folder/demo.capture.h5 $folder/demo.*.decision.h5 $folder/demo.spectrum.h5 $folder/answers/answers.json
TEXT
}
