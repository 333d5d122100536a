#!/usr/bin/env bash
# run_all.sh [OUT.json]: on a machine with a GPU, builds with CUDA, runs the CUDA tests and benchmarks, and leaves
# one JSON: the device, the versions, each test's verdict, each benchmark's figures. Fails if a test fails or
# was skipped: skipped means that nothing ran on a device.
# LibTorch is KVSCOPE_TORCH_DIR, else the torch of `python3`, else the wheel that ./run build fetches; it must be one
# whose libtorch_cuda.so finds its libraries. The Jinja engine is KVSCOPE_JINJA_DIR, else what ./run build fetches to .deps/jinja.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$(realpath -m "${1:-gpu.json}")
readonly build=build-cuda targets=(kvscope kernels_cuda_test runtime_cuda_test attention_stats_bench)

command -v nvidia-smi >/dev/null || { echo "run_all.sh: no nvidia-smi: this machine has no GPU that can be used" >&2; exit 1; }
torch=${KVSCOPE_TORCH_DIR:-$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null || true)}
torch=${torch:-$PWD/.deps/libtorch/torch}

cmake --preset cuda -DKVSCOPE_TORCH_DIR="$torch" -DKVSCOPE_JINJA_DIR="${KVSCOPE_JINJA_DIR:-$PWD/.deps/jinja}" -DKVSCOPE_VIEWER=OFF -DKVSCOPE_BENCHMARKS=ON >&2
cmake --build "$build" --parallel "${KVSCOPE_JOBS:-$(nproc)}" --target "${targets[@]}" kvscope_cuda >&2

failed=0
rm -f "$build"/cuda-tests-*.xml
for program in kernels_cuda_test runtime_cuda_test; do
  "$build/tests/$program" --gtest_output="xml:$build/cuda-tests-$program.xml" >&2 || failed=1
done
"$build/bench/attention_stats_bench" --benchmark_filter='column_pass' --benchmark_repetitions=5 \
  --benchmark_report_aggregates_only=true --benchmark_out="$build/cuda-bench.json" --benchmark_out_format=json >&2 || failed=1

python3 - "$build" "$torch" "$out" <<'PYTHON' || failed=1
import datetime, json, pathlib, re, subprocess, sys
import xml.etree.ElementTree as xml

build, torch, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])

def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

version = (torch / "include/torch/headeronly/version.h").read_text()
tests = {f'{case.get("classname")}.{case.get("name")}': case.get("result")
         for file in sorted(build.glob("cuda-tests-*.xml")) for case in xml.parse(file).getroot().iter("testcase")}
bench = json.loads((build / "cuda-bench.json").read_text())
result = {
    "date": datetime.date.today().isoformat(),
    "commit": said("git", "rev-parse", "HEAD") if pathlib.Path(".git").exists() else None,
    "device": said("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
    "nvcc": said("nvcc", "--version").splitlines()[-1],
    "torch": ".".join(re.search(rf"define TORCH_VERSION_{part} (\d+)", version).group(1) for part in ("MAJOR", "MINOR", "PATCH")),
    "tests": tests,
    "benchmarks": bench["benchmarks"],
}
out.write_text(json.dumps(result, indent=1) + "\n")
print(out)
not_run = sorted(name for name, status in tests.items() if status != "completed")
if not tests or not_run:
    sys.exit(f"run_all.sh: not run on the device: {', '.join(not_run) or 'no test at all'}")
PYTHON
exit "$failed"
