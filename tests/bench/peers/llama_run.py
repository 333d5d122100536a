"""Prefill, decode and load of llama.cpp (as vendored by llama-cpp-python); one JSON line for each.

usage: llama_run.py MODEL.gguf IDS [BF16.gguf]

BF16.gguf  a copy in bfloat16, llama.cpp's fastest form, made on first use and run instead of the model
"""

import json
import os
import pathlib
import resource
import signal
import statistics
import sys
import time

import llama_cpp

STEPS = 32  # tokens decoded behind the prompt


def requantise(gguf, path):
    """Writes the model in bfloat16 under `path`."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_BF16
    params.allow_requantize = True
    partial = path.with_suffix(".partial")
    if llama_cpp.llama_model_quantize(os.fsencode(gguf), os.fsencode(partial), params) != 0:
        sys.exit(f"llama.cpp could not write {gguf} in bfloat16")
    partial.rename(path)


def without_tiles():
    """Models loaded from now on do without llama.cpp's own buffers for tile instructions (AMX)."""
    original = llama_cpp.llama_cpp.llama_model_default_params

    def params():
        result = original()
        result.use_extra_bufts = False
        return result

    llama_cpp.llama_cpp.llama_model_default_params = params


def tiles_work(gguf, threads):
    """Whether the machine carries out the tile instructions its processor announces; some virtual ones do not."""
    child = os.fork()
    if child == 0:
        llama_cpp.Llama(gguf, n_ctx=128, n_threads=threads, n_threads_batch=threads, verbose=False).eval(list(range(64)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGILL)


def main(gguf, ids_file, bf16=None):
    ids = [int(word) for word in pathlib.Path(ids_file).read_text().split()]
    threads = int(os.environ.get("KVSCOPE_BENCH_THREADS", "2"))
    if bf16 and not pathlib.Path(bf16).exists():
        requantise(gguf, pathlib.Path(bf16))
    tiles = tiles_work(bf16 or gguf, threads)
    if not tiles:
        without_tiles()
    start = time.perf_counter()
    model = llama_cpp.Llama(bf16 or gguf, n_ctx=len(ids) + 64, n_batch=4096, n_ubatch=512, n_threads=threads,
                            n_threads_batch=threads, flash_attn=True, verbose=False)
    ready = time.perf_counter() - start
    model.eval(ids[:128])  # warm-up
    model.reset()
    start = time.perf_counter()
    model.eval(ids)
    prefill, times = time.perf_counter() - start, []
    for token in ids[:STEPS]:  # speed does not depend on the token
        start = time.perf_counter()
        model.eval([token])
        times.append(time.perf_counter() - start)
    form = ".bfloat16" if bf16 else ""
    for name, seconds in (("prefill", prefill), ("decode", statistics.median(times))):
        print(json.dumps({"name": f"llama.{name}{form}", "seconds": seconds, "load_seconds": ready, "tokens": len(ids),
                          "version": llama_cpp.__version__ + ("" if tiles else " without AMX"), "threads": threads,
                          "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
