"""Runs pipeline_bench, the viewer and, on request, other libraries, interleaved in one job; writes a table.

usage: bench.py --build DIR --model MODEL.gguf --out DIR [--peers PYTHON] [--llama] [--rounds 3]

Every cell is the median over rounds; in each round ours and theirs run one after the other, each as a
process of its own, so that its peak memory means something. Ratios of a capture to the plain prefill are
also taken inside one process (pipeline_bench ratios), where they are good to a few percent.
Results: DIR/results.json (every run) and DIR/RESULTS.md (the table).
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOKENS, LONG, LONGEST = 2048, 4096, 8192
STEPS = 150  # decode steps of each kind, in turns
SCALED, SCALE = 32768, 4  # beyond the model's context, with its rotation scaled
MAPS_LONG_GIB = 21  # what output_attentions needs at LONG tokens
MERGING = [("kvslimmer:variant=code", "at most 2.1"), ("asymkv", "at most 4.5")]
METHODS = ["knorm", "snapkv", "observed_attention", "streaming_llm", "h2o:form=prefill_sum", "tova",
           "snapkv:window=32", "pyramidkv", "adakv", "random"]

# What, in which type, beside whom and the most it may take of their time.
SPEED_ROWS = [("prefill", "float32", "transformers SDPA", "transformers.sdpa", "at most 0.91"),
              ("prefill", "float32", "llama.cpp, Q4_1", "llama.prefill", "at most 0.50"),
              ("prefill", "float32", "llama.cpp, BF16", "llama.prefill.bfloat16", "at most 0.83"),
              ("prefill", "bfloat16", "transformers SDPA", "transformers.sdpa_bfloat16", "at most 0.80"),
              ("decode", "float32", "transformers", "transformers.decode", "at most 0.33"),
              ("decode", "bfloat16", "llama.cpp, BF16", "llama.decode.bfloat16", "at most 0.91"),
              ("decode", "kept", "llama.cpp, Q4_1", "llama.decode", "at most 1.25"),
              ("decode", "kept_bfloat16", "llama.cpp, Q4_1", "llama.decode", "at most 1.25")]
PREFILL_GFLOP = 580  # of SmolLM2-135M at TOKENS: 435 in its matrices, 145 in causal attention
WEIGHTS = 134.5e6    # of SmolLM2-135M; each is read once a token
KEPT = 96.4e6 / WEIGHTS  # Q4_1, the embedding Q8_0
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "kept": KEPT, "kept_bfloat16": KEPT}


def bound(what, dtype, seconds):
    """How near a cell comes to what bounds it: arithmetic in a prefill, memory in a decode step."""
    if what == "prefill":
        return f"{PREFILL_GFLOP / seconds:.0f} GFLOP/s"
    return f"weights at {WEIGHTS * WEIGHT_BYTES[dtype] / seconds / 1e9:.0f} GB/s"


class Bench:
    """Runs cells and remembers their results by name and token count."""

    def __init__(self, options):
        self.options = options
        self.out = pathlib.Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.runs = []
        self.foreign = []  # cores that other processes used during each cell
        self.ids = {}

    def process(self, *command, name=None, tokens=None, environment=None):
        """One process: what it printed, its wall seconds, and the cores that others used meanwhile."""
        print("  " + " ".join(str(word) for word in command[:3]), "...", name or command[1], tokens or "", file=sys.stderr)
        start, busy, own = time.perf_counter(), busy_seconds(), children_seconds()
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, **(environment or {})}, check=False)
        wall = time.perf_counter() - start
        foreign = max(0.0, busy_seconds() - busy - (children_seconds() - own)) / wall
        self.foreign.append(foreign)
        if done.returncode != 0:
            sys.exit(f"{' '.join(str(word) for word in command)}\nended with {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout, wall, foreign

    def run(self, *command, name=None, tokens=None, environment=None):
        """One process; its JSON lines are kept. Without a name in them, its wall seconds are."""
        printed, wall, foreign = self.process(*command, name=name, tokens=tokens, environment=environment)
        if name:
            self.runs.append({"name": name, "seconds": wall, "foreign_cores": foreign})
            return
        for line in printed.splitlines():
            if line.startswith("{"):
                self.runs.append({"tokens": tokens, "foreign_cores": foreign, **json.loads(line)})

    def ours(self, *arguments, tokens=None):
        self.run(pathlib.Path(self.options.build) / "bin" / "pipeline_bench", *arguments, tokens=tokens)

    def peer(self, script, *arguments, tokens=None):
        if self.options.peers:
            self.run(self.options.peers, HERE / "peers" / script, *arguments, tokens=tokens)

    def get(self, name, key="seconds", tokens=None):
        """Median of one value over the runs of a cell, or None."""
        values = [run[key] for run in self.runs if run["name"] == name and key in run and tokens in (None, run.get("tokens"))]
        return statistics.median(values) if values else None


def busy_seconds():
    """CPU seconds that everything on the machine has used."""
    with open("/proc/stat", encoding="ascii") as lines:
        user, nice, system, _, _, irq, softirq, steal = (int(word) for word in next(lines).split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def available_gib():
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1048576


def measure(bench):
    options, out, model = bench.options, bench.out, bench.options.model
    cache = out / "transformers-model"
    for count in (TOKENS, LONG, LONGEST):
        bench.ids[count] = out / f"tokens-{count}.txt"
        bench.ours("tokens", model, ROOT / "LICENSE", count, bench.ids[count])
    ids = bench.ids[TOKENS]
    capture = out / "bench.capture.h5"
    for _ in range(options.rounds):
        bench.ours("load", model)
        bench.peer("transformers_run.py", "load", model, ids, cache)
        bench.ours("prefill", model, ids, tokens=TOKENS)
        bench.peer("transformers_run.py", "sdpa", model, ids, cache, tokens=TOKENS)
        measure_speed(bench, ids, cache)
        bench.ours("window", model, ids, capture, tokens=TOKENS)
        bench.ours("scores", model, ids, capture, tokens=TOKENS)
        bench.peer("transformers_run.py", "maps", model, ids, cache, tokens=TOKENS)
    bench.ours("ratios", model, ids, capture, max(options.rounds, 5), tokens=TOKENS)
    bench.ours("overhead", model, ids, out / "overhead.capture.h5", STEPS, tokens=TOKENS)
    bench.ours("writer", model, ids, out / "writer.capture.h5", options.rounds, tokens=TOKENS)
    bench.ours("decide", capture, 5, *METHODS)
    bench.ours("decide", capture, 15, "snapkv", "laprox")
    greedy(bench)
    bench.peer("kvpress_decide.py", model, ids, cache, options.rounds)
    bench.ours("ratios", model, bench.ids[LONG], out / "long.capture.h5", 3, tokens=LONG)
    for method, _ in MERGING:
        bench.ours("merging", model, bench.ids[LONG], method, 3, tokens=LONG)
    bench.ours("scores", model, bench.ids[LONG], out / "long.capture.h5", tokens=LONG)
    if options.peers and available_gib() > MAPS_LONG_GIB:
        bench.peer("transformers_run.py", "maps", model, bench.ids[LONG], cache, tokens=LONG)
    bench.ours("scores", model, bench.ids[LONGEST], out / "longest.capture.h5", tokens=LONGEST)
    if options.peers:
        scaled = out / "scaled.gguf"
        bench.peer("long_model.py", model, scaled, SCALE)
        bench.ids[SCALED] = out / f"tokens-{SCALED}.txt"
        bench.ours("tokens", model, ROOT / "LICENSE", SCALED, bench.ids[SCALED])
        bench.ours("scores", scaled, bench.ids[SCALED], out / "scaled.capture.h5", tokens=SCALED)
    picture(bench, capture)


def measure_speed(bench, ids, cache):
    """Decode and bfloat16, one round; llama.cpp on the file as it is and in its fastest form."""
    options, model = bench.options, bench.options.model
    if options.llama:
        bench.peer("llama_run.py", model, ids, tokens=TOKENS)
        bench.peer("llama_run.py", model, ids, bench.out / "llama-bf16.gguf", tokens=TOKENS)
    bench.ours("decode", model, ids, 32, "float32", tokens=TOKENS)
    bench.peer("transformers_run.py", "decode", model, ids, cache, tokens=TOKENS)
    bench.ours("prefill", model, ids, "bfloat16", tokens=TOKENS)
    bench.peer("transformers_run.py", "sdpa_bfloat16", model, ids, cache, tokens=TOKENS)
    bench.ours("decode", model, ids, 32, "bfloat16", tokens=TOKENS)
    bench.ours("decode", model, ids, 32, "kept", tokens=TOKENS)
    bench.ours("decode", model, ids, 32, "kept_bfloat16", tokens=TOKENS)


def greedy(bench):
    """alpha's greedy choice of one in five of LONG candidates, SmolLM2's 90 (layer, KV head) units at once."""
    printed, _, foreign = bench.process(
        pathlib.Path(bench.options.build) / "bench" / "greedy_diversity_bench", "--benchmark_format=json",
        f"--benchmark_filter=^bench_kernel/candidates:{LONG}/aggregate:0", "--benchmark_repetitions=5",
        "--benchmark_report_aggregates_only=true", name="greedy", environment={"OMP_NUM_THREADS": "2"})
    median = next(cell for cell in json.loads(printed)["benchmarks"] if cell.get("aggregate_name") == "median")
    assert median["time_unit"] == "ms"
    bench.runs.append({"name": "greedy", "seconds": median["real_time"] / 1000, "gflops": median["GFLOP/s_dense"],
                       "foreign_cores": foreign})


def picture(bench, capture):
    """Wall seconds from the files to a PNG, start-up included."""
    program, out = pathlib.Path(bench.options.build) / "bin" / "kvscope", bench.out
    if not program.exists() or not (program.parent / "kvscope-viewer").exists():
        return
    decisions = out / "decisions"
    if not decisions.exists():
        subprocess.run([program, "decide", capture, "-m", "snapkv", "knorm", "--keep", "0.2", "-o", decisions], check=True,
                       stdout=subprocess.DEVNULL)
    files = [capture, *sorted(decisions.glob("*.decision.h5"))]
    for _ in range(max(bench.options.rounds, 3)):
        bench.run(program, "view", *files, "--render", out / "picture.png", name="view")


def overhead_rows(get):
    """A decode step with capture compiled in and off, and on (medians; ratios are medians of steps taken in turns); the writer beside the disk."""
    if get("overhead", "bare_seconds", TOKENS):
        bare, off, window = (1e3 * get("overhead", f"{name}_seconds", TOKENS) for name in ("bare", "off", "window"))
        yield (f"decode step after {TOKENS} tokens, capture compiled in and off, one process", f"{off:.2f} ms",
               f"the forward pass alone {bare:.2f} ms; its twin {get('overhead', 'twin_ratio', TOKENS):.3f} ×",
               f"{get('overhead', 'off_ratio', TOKENS):.3f} × (at most 1.005)")
        yield (f"decode step after {TOKENS} tokens, capture `window`, one process", f"{window:.2f} ms", f"capture off {off:.2f} ms",
               f"{get('overhead', 'window_ratio', TOKENS):.3f} × (at most 1.05)")
    if get("writer", "bytes_per_second", TOKENS):
        mine, disk = get("writer", "bytes_per_second", TOKENS) / 1e9, get("writer", "disk_bytes_per_second", TOKENS) / 1e9
        aim = f"at least {min(1, 1 / disk):.2f}"  # 1 GB/s, or the disk's limit
        yield "writer, 1 GiB of keys and values to the disk", f"{mine:.2f} GB/s", f"plain writes {disk:.2f} GB/s", f"{mine / disk:.2f} × ({aim})"


def rows(bench):
    """(what, ours, theirs, ratio and its aim) of the table; a missing peer leaves its cell empty."""
    def seconds(value):
        return "" if value is None else f"{value:.3f} s" if value < 10 else f"{value:.1f} s"

    def ratio(mine, other, aim):
        return f"{mine / other:.2f} × ({aim})" if mine and other else f"({aim})"

    def memory(value):
        return "" if value is None else f"{value:.0f} MiB"

    plain, get = bench.get("prefill", tokens=TOKENS), bench.get
    yield "model ready from GGUF", seconds(get("load")), f"transformers {seconds(get('transformers.load'))}", "(under 1 s)"
    for what, dtype, peer, name, aim in SPEED_ROWS:
        mine = plain if (what, dtype) == ("prefill", "float32") else get(f"{what}.{dtype}", tokens=TOKENS)
        if mine and get(name):
            yield (f"{what}, {'a token after ' if what == 'decode' else ''}{TOKENS} tokens, {dtype}",
                   f"{seconds(mine)}, {bound(what, dtype, mine)}", f"{peer} {seconds(get(name))}", ratio(mine, get(name), aim))
    for name, cache in (("decode.kept_bfloat16", "bfloat16"), ("decode.kept", "float32")):
        if get(name, tokens=TOKENS) and get("llama.decode"):  # llama.cpp caches two bytes a number as well
            mine, other = get(name, "peak_mib", TOKENS), get("llama.decode", "peak_mib")
            yield (f"its peak memory, {TOKENS} tokens (`--weights keep`, cache in {cache})", memory(mine),
                   f"llama.cpp, Q4_1, cache in float16 {memory(other)}", ratio(mine, other, "at most 1.5"))
    for tokens in (TOKENS, LONG):
        for profile, aim in (("window", "at most 1.05"), ("scores", "at most 1.20")):
            if get("ratios", tokens=tokens, key="plain_seconds"):
                yield (f"capture `{profile}`, {tokens} tokens, one process", seconds(get("ratios", f"{profile}_seconds", tokens)),
                       f"our plain prefill {seconds(get('ratios', 'plain_seconds', tokens))}",
                       f"{get('ratios', f'{profile}_ratio', tokens):.2f} × ({aim})")
    yield from overhead_rows(get)
    for method, aim in MERGING:
        name = f"merging.{method}"
        if get(name):
            yield (f"{method}, {LONG} tokens in chunks of 512, one process", seconds(get(name)),
                   f"our plain prefill in chunks {seconds(get(name, 'plain_seconds'))}", f"{get(name, 'ratio'):.2f} × ({aim})")
            yield f"its peak memory, {LONG} tokens", memory(get(name, "peak_mib")), "", "(at most 3072 MiB)"
    for profile in ("window", "scores"):
        mine, base = get(profile, "peak_mib", TOKENS), get("prefill", "peak_mib", TOKENS)
        yield (f"peak memory of `{profile}`, {TOKENS} tokens", memory(mine), f"our plain prefill {memory(base)}",
               f"{mine - base:+.0f} MiB (at most +200)")
    for tokens, time_aim, memory_aim in ((TOKENS, "at most 0.40", "at most 0.25"), (LONG, "at most 0.20", "at most 0.125")):
        other = get("transformers.maps", tokens=tokens)
        if other:
            yield (f"column sums to HDF5, {tokens} tokens (`scores`)", seconds(get("scores", tokens=tokens)),
                   f"output_attentions {seconds(other)}", ratio(get("scores", tokens=tokens), other, time_aim))
            theirs = get("transformers.maps", "peak_mib", tokens)
            yield (f"its peak memory, {tokens} tokens", memory(get("scores", "peak_mib", tokens)),
                   f"output_attentions {memory(theirs)}", ratio(get("scores", "peak_mib", tokens), theirs, memory_aim))
    yield (f"column sums to HDF5, {LONGEST} tokens (`scores`)", seconds(get("scores", tokens=LONGEST)),
           memory(get("scores", "peak_mib", LONGEST)), "(runs)")
    if get("scores", tokens=SCALED):
        yield (f"column sums to HDF5, {SCALED} tokens, rotation scaled by {SCALE} (`scores`)", seconds(get("scores", tokens=SCALED)),
               memory(get("scores", "peak_mib", SCALED)), "(at most 6144 MiB)")
    for method, aim in (("knorm", "at most 1"), ("snapkv", "at most 1"), ("observed_attention", "under 0.1 s")):
        mine, other = get(f"decide.{method}"), get(f"kvpress.{method}")
        yield f"decide {method}, {TOKENS} tokens", seconds(mine), f"kvpress {seconds(other)}" if other else "", ratio(mine, other, aim)
    mine, other = get("decide.laprox"), get("decide.snapkv")
    yield (f"decide laprox, {TOKENS} tokens: the same reads, then one ranking over all layers and heads", seconds(mine),
           f"our decide snapkv {seconds(other)}", ratio(mine, other, "at most 2"))
    if get("greedy"):
        yield (f"alpha's greedy, {LONG} candidates x 90 (layer, KV head) units: bound by the cosines, picks x candidates x head_dim",
               seconds(get("greedy")), f"{get('greedy', 'gflops'):.0f} GFLOP/s as if none were skipped", "(under 1.5 s)")
    yield ("ten methods, one call", seconds(get("decide.one_call")), f"ten calls {seconds(get('decide.separate_calls'))}",
           ratio(get("decide.one_call"), get("decide.separate_calls"), "below 1"))
    if get("view"):
        yield "viewer, files to PNG", seconds(get("view")), "", "(under 2 s)"


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    with open("/proc/meminfo", encoding="ascii") as lines:
        memory = int(next(lines).split()[1]) / 1048576
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def stamp():
    """The date, the version and the machine, as each file of results begins."""
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f"{datetime.date.today()}, kvscope {commit.stdout.strip() or 'without git'}, {machine()}."


def table(bench):
    peers = sorted({f"{run['name'].split('.')[0]} {run['version']}" for run in bench.runs if "version" in run})
    lines = ["# Benchmark results", "",
             "Written by `./run bench --peers --record`; how each cell is measured stands in `bench.py`. Two threads, CPU, "
             "SmolLM2-135M-Instruct (Q4_1 GGUF), computed in float32 unless said. A difference below about 10 % between two processes "
             "means nothing; ratios taken inside one process are good to a few percent. In brackets: what it should reach.", "",
             f"{stamp()} Peers: {', '.join(peers) or 'none in this run'}. Medians of {bench.options.rounds} interleaved rounds; "
             f"other processes used {statistics.median(bench.foreign):.2f} cores meanwhile (at most {max(bench.foreign):.2f}).", "",
             "| what | kvscope | beside it | ratio |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(bench)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--peers", default="", help="a Python with transformers and kvpress")
    parser.add_argument("--llama", action="store_true", help="llama-cpp-python is in that Python too")
    parser.add_argument("--rounds", type=int, default=3)
    bench = Bench(parser.parse_args())
    measure(bench)
    (bench.out / "results.json").write_text(json.dumps(bench.runs, indent=1), encoding="utf-8")
    text = table(bench)
    (bench.out / "RESULTS.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
