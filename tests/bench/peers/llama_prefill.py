"""Prefill and load of llama.cpp (as vendored by llama-cpp-python) on the same GGUF file; one JSON line.

usage: llama_prefill.py MODEL.gguf IDS
"""

import json
import os
import pathlib
import resource
import sys
import time

import llama_cpp


def main(gguf, ids_file):
    ids = [int(word) for word in pathlib.Path(ids_file).read_text().split()]
    threads = int(os.environ.get("KVSCOPE_BENCH_THREADS", "2"))
    start = time.perf_counter()
    model = llama_cpp.Llama(gguf, n_ctx=len(ids) + 64, n_batch=4096, n_ubatch=512, n_threads=threads,
                            n_threads_batch=threads, flash_attn=True, verbose=False)
    ready = time.perf_counter() - start
    model.eval(ids[:128])  # warm-up
    model.reset()
    start = time.perf_counter()
    model.eval(ids)
    print(json.dumps({"name": "llama.prefill", "seconds": time.perf_counter() - start, "load_seconds": ready,
                      "tokens": len(ids), "version": llama_cpp.__version__, "threads": threads,
                      "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
