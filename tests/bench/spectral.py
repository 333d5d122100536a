"""Runs spectral_speed and, on request, WeightWatcher and torch beside it in one job; writes a table.

usage: spectral.py --build DIR --model MODEL.gguf --out DIR [--peers PYTHON] [--rounds 3] [--size 4096]

Results: DIR/spectral.json (every cell) and DIR/SPECTRAL.md (the table).
"""

import argparse
import json
import pathlib
import subprocess
import sys

import bench

HERE = pathlib.Path(__file__).resolve().parent


def cells(*command):
    print("  " + " ".join(str(word) for word in command), file=sys.stderr)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"ended with {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def rows(found):
    """(what, ours, beside it, ratio and its aim); a missing peer leaves its cell empty."""
    def seconds(name):
        return found[name]["seconds"] if name in found else None

    def against(ours, theirs, aim):
        return f"{theirs / ours:.1f} × faster ({aim})" if ours and theirs else f"({aim})"

    def text(value):
        return "" if value is None else f"{value:.3f} s" if value < 10 else f"{value:.1f} s"

    qkv, ww = found["qkv"], found.get("weightwatcher.qkv")
    theirs = ww["seconds"] / ww["matrices"] * qkv["matrices"] if ww else None
    yield (f"layer spectra of Q, K, V with fits, {qkv['matrices']} matrices", text(qkv["seconds"]),
           f"WeightWatcher {text(theirs)}" if ww else "", against(qkv["seconds"], theirs, "at least 3"))
    yield ("heads, O, QK, OV and nulls on top", text(seconds("everything") - qkv["seconds"]), "", "(within 3 s)")
    dense = seconds("dense_head") * found["products"]["heads"] * 2
    yield (f"QK and OV of {found['products']['heads']} heads, with alignments, one thread", text(seconds("products")),
           f"dense {text(dense)} (one head, multiplied)", against(seconds("products"), dense, "never dense"))
    one, torch, svd = found["one"], seconds("torch.one"), seconds("scipy.svd")
    yield (f"{one['n']} × {one['n']} float64 spectrum, Gram included, one thread", text(one["seconds"]), f"torch, all cores, {text(torch)}" if torch else "",
           f"{one['seconds'] / torch:.2f} × (at most 1.1 on all cores)" if torch else "(at most 1.1)")
    yield (f"two of them side by side, one thread each", text(found["two"]["seconds"]), f"torch, one after the other, {text(2 * torch)}" if torch else "",
           f"{found['two']['seconds'] / (2 * torch):.2f} × (at most 1.1)" if torch else "(at most 1.1)")
    yield ("a matrix, side by side", text(found["two"]["seconds"] / 2), f"WeightWatcher's route {text(svd)}" if svd else "",
           against(found["two"]["seconds"] / 2, svd, "at least 4"))
    yield ("its Gram stage", f"{one['gram_rate'] / 1e9:.1f} GFLOP/s", f"our GEMM {one['gemm_rate'] / 1e9:.1f} GFLOP/s",
           f"{100 * one['gram_share']:.0f} % (at least 70 %)")
    yield ("peak memory of one", f"{found['memory']['bytes'] / 2**20:.0f} MiB", "the matrix in float64", f"{found['memory']['share']:.2f} × (under 2.5)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--peers", default="", help="a Python with torch, gguf and weightwatcher")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=4096)
    options = parser.parse_args()
    program, rounds = pathlib.Path(options.build) / "bench" / "spectral_speed", options.rounds
    found = cells(program, "model", options.model, rounds)
    if options.peers:
        found += cells(options.peers, HERE / "peers" / "spectral_peers.py", "weightwatcher", options.model, 10, rounds)
    found += cells(program, "matrix", options.size, rounds)
    if options.peers:
        found += cells(options.peers, HERE / "peers" / "spectral_peers.py", "matrix", options.size, rounds)
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "spectral.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    table = ("# Spectra\n\nWritten by `./run bench --peers --record`; how each cell is measured stands in `spectral.py`. In brackets: "
             f"what it should reach.\n\n{bench.stamp()} Medians of {rounds} rounds, the singular values by scipy once.\n\n")
    table += "| what | kvscope | beside it | ratio |\n| --- | --- | --- | --- |\n"
    table += "".join("| " + " | ".join(row) + " |\n" for row in rows({cell["name"]: cell for cell in found}))
    (out / "SPECTRAL.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
