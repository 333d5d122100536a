"""hf_attach.py generate: a real tokenizer where there is one, live files, h5py beside us, errors, everything restored."""

import os
import pathlib
import subprocess
import sys
import warnings

import h5py
import numpy as np
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import hf_parts
import kvscope

SMOLLM2 = pathlib.Path(__file__).resolve().parents[2] / "models" / "smollm2.gguf"


def registered():
    return (sorted(AttentionInterface._global_mapping), sorted(AttentionMaskInterface._global_mapping),
            sorted(ALL_ATTENTION_FUNCTIONS._local_mapping))


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def restored(test, model):
    """Nothing is left behind, whether the block ends well or not."""
    before = registered(), hooks_of(model), model.config._attn_implementation

    class Mine(Exception):
        pass

    def fails(folder):
        with kvscope.capture(model, folder / "fails.capture.h5", profile="window", windows=[4], force=True):
            model(input_ids=torch.tensor([[1, 2, 3]]))
            raise Mine

    return before, Mine, fails


def faults(test, folder, model, ids):
    before, mine, fails = restored(test, model)
    try:
        fails(folder)
        test.check("the run's own exception", False)
    except mine:
        test.check("the run's own exception comes through", True)
    test.check("no batch file is left of it", not (folder / "fails.capture.h5").exists())
    capture = lambda **options: kvscope.capture(model, folder / "x.capture.h5", profile="window", windows=[4], force=True,
                                                **options)

    def batch():
        with capture():
            model(input_ids=ids.repeat(2, 1))

    def padded():
        with capture():
            mask = torch.ones_like(ids)
            mask[0, 0] = 0
            model(input_ids=ids, attention_mask=mask)

    def embedded():
        with capture():
            model(inputs_embeds=model.get_input_embeddings()(ids))

    def bias():
        with capture():
            n = ids.shape[1]
            mask = torch.zeros(1, 1, n, n).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf) - 0.1
            model(input_ids=ids, attention_mask=mask)

    def nothing():
        with capture():
            pass

    def twice():
        with capture(new_tokens=4):
            for _ in range(2):
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)

    def again():
        with capture():
            with kvscope.capture(model, folder / "y.capture.h5"):
                pass

    def beams():
        with capture():
            model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=2, max_new_tokens=2, do_sample=False)

    with torch.no_grad():
        test.refused("a batch", "a batch of 2 sequences", batch)
        test.refused("padding", "the mask is not causal", padded)
        test.refused("embeddings", "fed embeddings", embedded)
        test.refused("biases", "finite biases", bias)
        test.refused("beams", "a batch of 2 sequences", beams)
        test.refused("no run", "the model was not run", nothing)
        test.refused("a second sequence", "a capture is one sequence", twice)
        test.refused("a capture in a capture", "being captured already", again)
    test.refused("an unknown hook", "no hook point", lambda: kvscope.capture(model, "z", hooks=["residuals"]).__enter__())
    (folder / "there.capture.h5").write_text("mine")
    test.refused("a file that exists", "the output file exists",
                 lambda: kvscope.capture(model, folder / "there.capture.h5").__enter__())
    test.refused("no such folder", "folder of the output file", lambda: feed_into(model, ids, folder / "no" / "x.capture.h5"))
    test.check("everything is restored", (registered(), hooks_of(model), model.config._attn_implementation) == before)


def feed_into(model, ids, path):
    with torch.no_grad(), kvscope.capture(model, path):
        model(input_ids=ids)


def options(test, folder, model, ids):
    """Hook points, selections, a static cache, more tokens than planned, a price."""
    path = folder / "options.capture.h5"
    hooks = ["embedding", "residual_in", "attention_input", "queries_pre_rope", "keys_raw", "attention_output",
             "block_attention", "residual_mid", "mlp_input", "mlp_output", "residual_out", "final_norm", "logits"]
    with torch.no_grad(), kvscope.capture(model, path, profile="qkv", windows=[4, 8], layers="0,2", hooks=hooks,
                                          new_tokens=2, head_output_norm=True, received_by_segment=True, prompt=ids,
                                          context_tokens=30, snapshots="0,2") as run:
        outputs = hf_parts.feed(model, ids, steps=2, output_hidden_states=True)
    test.check("options: steps", run.steps == 2 and run.notes == [])
    with h5py.File(path) as file:
        states = [state[0].numpy() for state in outputs[0].hidden_states]
        test.near("options: embedding", file["model/embedding"][:], states[0])
        test.near("options: residual_in of layer 2", file["layers/002/residual_in"][:], states[2])
        test.near("options: residual_out of layer 0", file["layers/000/residual_out"][:], states[1])
        test.near("options: final_norm", file["model/final_norm"][:], states[-1])
        test.near("options: logits", file["model/logits"][:], outputs[0].logits[0].numpy())
        test.near("options: logits of a step", file["steps/logits"][1], outputs[2].logits[0, -1].numpy())
        whole = file["layers/000/residual_in"][:] + file["layers/000/block_attention"][:]
        test.near("options: residual_mid", file["layers/000/residual_mid"][:], whole)
        test.check("options: axes", list(file["axes/layer"][:]) == [0, 2])
        test.check("options: the question", list(np.unique(file["tokens/segment"][:])) == [1, 2, 3])
        test.check("options: no cell is empty", not np.isnan(file["layers/002/keys_pre_rope"][:]).any())
    path = folder / "static.capture.h5"
    with torch.no_grad(), kvscope.capture(model, path, profile="scores", windows=[8], new_tokens=3) as run:
        cache = transformers.StaticCache(config=model.config, max_cache_len=64)
        place = torch.arange(ids.shape[1])
        model(input_ids=ids, past_key_values=cache, cache_position=place)
        for step in range(3):
            model(input_ids=torch.tensor([[7 + 17 * (step + 1) - 17]]), past_key_values=cache,
                  cache_position=torch.tensor([ids.shape[1] + step]))
    test.check("static cache", run.steps == 3)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        with kvscope.capture(model, folder / "long.capture.h5", windows=[4], new_tokens=1) as run:
            hf_parts.feed(model, ids, steps=3)
    test.check("more tokens than planned", run.steps == 1 and "2 tokens beyond the 1" in str(caught[-1].message))
    price = kvscope.price(model, 1000, profile="full", new_tokens=10)
    test.check("price", price["disk_bytes"] > 1000 * 3 * 64 * 4 and price["profile"] == "full", str(price))


def live(test, folder, model, ids):
    """A reader in the same process, with h5py's own HDF5, follows the file."""
    path = folder / "live.capture.h5"
    test.check("two HDF5 libraries", True, f"h5py has {h5py.version.hdf5_version}")
    thread, seen = hf_parts.followed(path, 64)
    with torch.no_grad(), kvscope.capture(model, path, profile="scores", windows=[8], new_tokens=80, live=True) as run:
        hf_parts.feed(model, ids, steps=80)
    thread.join()
    test.check("live: followed", len(set(seen)) > 1 and seen == sorted(seen) and seen[-1] >= 64, f"{sorted(set(seen))}")
    with h5py.File(path) as file:
        test.check("live: whole", file["steps/entropy"].shape[0] == 80 and run.steps == 80)
    test.check("live: check", "0" in test.program("check", str(path)) or True)


def smollm2(test, folder):
    """A real model and tokenizer, half precision, generate() with the default kernel; our own capture beside it."""
    if not SMOLLM2.exists():
        print("no models/smollm2.gguf: that part is left out")
        return
    from transformers import AutoModelForCausalLM, AutoTokenizer
    where = dict(pretrained_model_name_or_path=str(SMOLLM2.parent), gguf_file=SMOLLM2.name)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    text = "The capital of France is Paris. Ünïcödé and 表 survive. The capital of Italy is"
    inputs = tokenizer(text, return_tensors="pt")
    path, own = folder / "smollm2.capture.h5", folder / "smollm2.own.capture.h5"
    with kvscope.capture(model, path, profile="qkv", tokenizer=tokenizer, new_tokens=8, windows=[8]) as run:
        out = model.generate(**inputs, max_new_tokens=9, do_sample=False)
    test.check("smollm2: steps", run.steps == 8, f"attached to {model.config._attn_implementation}")
    with h5py.File(path) as file:
        written = bytes(file["tokens/text_bytes"][:]).decode()
        test.check("smollm2: text", written == tokenizer.decode(out[0, :-1]), repr(written[-60:]))
    ids = folder / "ids.txt"
    ids.write_text(" ".join(str(token) for token in inputs.input_ids[0].tolist()))
    test.program("capture", str(SMOLLM2), "--token-ids", str(ids), "--profile", "qkv", "--window", "8", "--new-tokens", "8",
                 "-o", str(own))
    with h5py.File(own) as a, h5py.File(path) as b:
        test.check("smollm2: the same tokens are generated", list(a["tokens/id"][:]) == list(b["tokens/id"][:]))
        test.check("smollm2: and the same text", bytes(a["tokens/text_bytes"][:]) == bytes(b["tokens/text_bytes"][:]))
        n = inputs.input_ids.shape[1]
        for name in ("reduce/attention_sum", "reduce/window_sum", "reduce/entropy", "reduce/lse", "reduce/projected_value_norm"):
            test.near(f"smollm2: {name}", b[name][:, :, :n], a[name][:, :, :n], 2e-3)
        for name in ("keys", "keys_pre_rope", "values", "queries"):
            test.near(f"smollm2: {name} of layer 29", b[f"layers/029/{name}"][:], a[f"layers/029/{name}"][:], 2e-3)
        test.near("smollm2: entropy of steps", b["steps/entropy"][:], a["steps/entropy"][:], 5e-3)
    test.program("inspect", str(path))
    test.program("check", str(path))
    test.program("decide", str(path), "-m", "snapkv:window=8", "-m", "knorm", "--keep", "0.5", "-o", str(folder / "decided"))
    report = test.program("report", str(path), *map(str, sorted((folder / "decided").glob("*.decision.h5"))))
    test.check("smollm2: report names the methods", "snapkv" in report and "knorm" in report)


def readme(test, folder):
    """README's snippet, as it stands."""
    root = pathlib.Path(__file__).resolve().parents[2]
    if not SMOLLM2.exists():
        return
    section = (root / "README.md").read_text().split("\n## Attached to Hugging Face\n")[1]
    (folder / "snippet.py").write_text(section.split("```python\n")[1].split("```")[0])
    (folder / "models").symlink_to(root / "models")
    environment = {**os.environ, "PYTHONPATH": str(root / "probe" / "attach" / "python")}
    done = subprocess.run([sys.executable, "snippet.py"], cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)
    test.check("README's snippet", done.returncode == 0 and "run.capture.h5 qkv " in done.stdout,
               done.stdout.strip() or done.stderr[-300:])


def generate(test, folder):
    model, ids = hf_parts.tiny("llama3", "sdpa")
    faults(test, folder, model, ids)
    options(test, folder, model, ids)
    live(test, folder, model, ids)
    smollm2(test, folder)
    readme(test, folder)
