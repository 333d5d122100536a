# shellcheck shell=bash disable=SC2034,SC2154
# ./run demo: the whole pipeline on a real model; everything it makes lies in demo/.

do_demo() {
  [ $# -eq 0 ] || wrong "demo takes no argument"
  do_build programs
  fetch_model smollm2
  local kvscope=build/bin/kvscope model=models/smollm2.gguf out=demo
  local methods=(streaming_llm knorm snapkv pyramidkv adakv laprox 'snapkv|nearest_key')
  local prompt=(-f data/demo/passage.txt --question "$(cat data/demo/question.txt)" --chat)
  local fact
  fact=$(cat data/demo/fact.txt)
  rm -rf "$out"
  mkdir -p "$out"

  step "capture: one run of the model, written down"
  "$kvscope" capture "$model" "${prompt[@]}" --profile qkv --new-tokens 24 -o "$out/demo.capture.h5"
  step "decide: what each method keeps of it, at a fifth of the cache"
  "$kvscope" decide "$out/demo.capture.h5" -m "${methods[@]}" --keep 0.2 --scores -o "$out"
  step "generate: the answer with the full and with each smaller cache"
  "$kvscope" generate "$model" "${prompt[@]}" -m "${methods[@]}" --keep 0.2 --new-tokens 24 -o "$out" | tee "$out/generate.txt"
  step "spectral: eigen-analysis of the projections"
  "$kvscope" spectral "$model" -o "$out/demo.spectrum.h5" >"$out/spectral.txt"
  step "report: what was lost, and what it costs"
  local decisions=("$out"/demo.*.decision.h5)
  "$kvscope" report "$out/demo.capture.h5" "${decisions[@]}" --find "$fact" | tee "$out/report.txt"
  "$kvscope" report "$out/demo.capture.h5" "${decisions[@]}" --find "$fact" --format html >"$out/report.html"
  if [ -x build/bin/kvscope-viewer ]; then
    step "view: the picture"
    "$kvscope" view "$out/demo.capture.h5" "${decisions[@]}" "$out/demo.spectrum.h5" --render "$out/demo.png" --size 1600x1000
  fi
  demo_summary "$out"
  if [ -x build/bin/kvscope-viewer ] && [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
    "$kvscope" view "$out/demo.capture.h5" "${decisions[@]}" "$out/demo.spectrum.h5"
  fi
}

demo_summary() {
  cat <<TEXT

Everything is in $1/:
  demo.capture.h5          the run: tokens, keys, values, queries, attention sums
  demo.*.decision.h5       one fate and one reason for each token, KV head and layer, by method
  demo.spectrum.h5         spectra of the projection weights (table: spectral.txt)
  report.txt report.html   budgets, fates, output error, what became of the fact
  generate.txt             the answers, full cache against compressed
  demo.png                 the viewer

Look around:  build/bin/kvscope view $1/demo.capture.h5 $1/demo.*.decision.h5 $1/demo.spectrum.h5
TEXT
}
