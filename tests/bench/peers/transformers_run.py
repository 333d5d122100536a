"""One cell of the comparison with Hugging Face transformers, as one process, printed as one JSON line.

usage: transformers_run.py MODE MODEL.gguf IDS CACHE_DIR

MODE   load   seconds from the GGUF file to a float32 model
       sdpa   prefill with scaled-dot-product attention, logits of the last token only
       sdpa_bfloat16  the same with the model in bfloat16
       decode  median seconds a token over 16 greedy tokens behind that prefill, float32
       maps   prefill with output_attentions, columns of every map summed and written to HDF5
IDS    token ids separated by white space
CACHE_DIR  a copy of the model as transformers saves it; made on first use
"""

import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache, __version__

torch.set_num_threads(int(os.environ.get("KVSCOPE_BENCH_THREADS", "2")))


def load_gguf(gguf):
    return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()


def load(gguf, cache, attention, dtype=torch.float32):
    """From a safetensors copy, made on first use: a model fresh from a GGUF also runs slower at first."""
    if not (cache / "config.json").exists():
        load_gguf(gguf).save_pretrained(cache)
    return AutoModelForCausalLM.from_pretrained(cache, dtype=dtype, attn_implementation=attention).eval()


def column_sums(model, ids, path):
    import h5py

    result = model(ids, past_key_values=DynamicCache(), logits_to_keep=1, output_attentions=True)
    with h5py.File(path, "w") as file:
        for layer, attention in enumerate(result.attentions):
            file.create_dataset(f"layer{layer:03d}/attention_sum", data=attention[0].sum(1).numpy())


def decode(model, ids, steps=16):
    """Median seconds of one greedy token after the prompt."""
    cache, times = DynamicCache(), []
    token = model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
    for _ in range(steps):
        start = time.perf_counter()
        token = model(token, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(mode, gguf, ids_file, cache):
    gguf, cache = pathlib.Path(gguf).resolve(), pathlib.Path(cache)
    result = {"name": f"transformers.{mode}", "version": __version__, "threads": torch.get_num_threads()}
    if mode == "load":
        start = time.perf_counter()
        load_gguf(gguf)
        result["seconds"] = time.perf_counter() - start
    else:
        ids = torch.tensor([[int(word) for word in pathlib.Path(ids_file).read_text().split()]])
        model = load(gguf, cache, "eager" if mode == "maps" else "sdpa",
                     torch.bfloat16 if mode == "sdpa_bfloat16" else torch.float32)
        with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            model(ids[:, :128], past_key_values=DynamicCache(), logits_to_keep=1)  # warm-up
            start = time.perf_counter()
            if mode == "maps":
                column_sums(model, ids, pathlib.Path(folder) / "columns.h5")
            elif mode != "decode":
                model(ids, past_key_values=DynamicCache(), logits_to_keep=1)
            result["seconds"] = decode(model, ids) if mode == "decode" else time.perf_counter() - start
        result["tokens"] = ids.shape[1]
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] not in {"load", "sdpa", "sdpa_bfloat16", "decode", "maps"}:
        sys.exit(__doc__)
    main(*sys.argv[1:])
