"""Seconds that kvpress spends inside compress(), over all layers of one prefill; one JSON line a press.

usage: kvpress_decide.py MODEL.gguf IDS CACHE_DIR ROUNDS
"""

import importlib.metadata
import json
import pathlib
import statistics
import sys
import time

import torch
from kvpress import KnormPress, ObservedAttentionPress, SnapKVPress
from transformers import DynamicCache
from transformers_run import load

PRESSES = {"knorm": (KnormPress, "sdpa"), "snapkv": (SnapKVPress, "sdpa"),
           "observed_attention": (ObservedAttentionPress, "eager")}


def compress_seconds(model, ids, press):
    """One prefill under `press`: what its compress() took in all."""
    spent = 0.0
    original = press.compress

    def timed(*arguments, **named):
        nonlocal spent
        start = time.perf_counter()
        result = original(*arguments, **named)
        spent += time.perf_counter() - start
        return result

    press.compress = timed
    with press(model):
        model(ids, past_key_values=DynamicCache(), logits_to_keep=1)
    return spent


def main(gguf, ids_file, cache, rounds):
    model = load(pathlib.Path(gguf).resolve(), pathlib.Path(cache), "sdpa")
    ids = torch.tensor([[int(word) for word in pathlib.Path(ids_file).read_text().split()]])
    seconds = {name: [] for name in PRESSES}
    with torch.inference_mode():
        model(ids, past_key_values=DynamicCache(), logits_to_keep=1)  # warm-up
        for _ in range(int(rounds)):
            for name, (press, attention) in PRESSES.items():
                model.set_attn_implementation(attention)
                seconds[name].append(compress_seconds(model, ids, press(0.5)))
    for name, values in seconds.items():
        print(json.dumps({"name": f"kvpress.{name}", "seconds": statistics.median(values), "rounds": len(values),
                          "tokens": ids.shape[1], "version": importlib.metadata.version("kvpress")}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
