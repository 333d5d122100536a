"""hf_attach.py variants: models in half precision, compiled models, and what the programs make of an attached file."""

import os
import subprocess
import warnings

import h5py
import numpy as np
import torch

import hf_parts
import kvscope


def half_precision(test, folder, dtype):
    """Statistics of a half-precision model's own rows, computed in float32: what softmax gives of the stored Q and K."""
    model, ids = hf_parts.tiny("llama3", "sdpa")
    model.to(dtype)
    name, n = str(dtype).removeprefix("torch."), ids.shape[1]
    with torch.no_grad(), kvscope.capture(model, folder / f"{name}.capture.h5", profile="full", windows=[8],
                                          new_tokens=hf_parts.STEPS) as run:
        outputs = hf_parts.feed(model, ids)
    test.check(f"{name}: steps", run.steps == hf_parts.STEPS and run.notes == [])
    with h5py.File(run.path) as file:
        for kind in ("weights_dtype", "compute_dtype", "cache_dtype"):
            test.check(f"{name}: {kind}", file.attrs[kind].decode() == name, file.attrs[kind].decode())
        unseen = torch.ones(n, n).triu(1).bool()
        for layer in range(model.config.num_hidden_layers):
            stored = file[f"layers/{layer:03d}"]
            keys = torch.from_numpy(stored["keys"][:])[:, :n]
            test.check(f"{name}: keys of layer {layer} are the cache's bits",
                       torch.equal(keys, outputs[0].past_key_values.layers[layer].keys[0, :, :n].float()))
            queries = torch.from_numpy(stored["queries"][:])[:, :n]
            logits = queries @ keys.repeat_interleave(queries.shape[0] // keys.shape[0], 0).transpose(1, 2)
            maps = (logits * float(file.attrs["attention_scale"])).masked_fill(unseen, -torch.inf).softmax(-1)
            test.near(f"{name}: attention_sum of layer {layer}", file["reduce/attention_sum"][layer, :, :n], maps.sum(1))
            test.near(f"{name}: window_sum of layer {layer}", file["reduce/window_sum"][layer, :, :n], maps[:, -8:].sum(1))


def same_numbers(test, what, found, expected):
    with h5py.File(found) as a, h5py.File(expected) as b:
        names = []
        b.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        differing = [name for name in names if name.split("/")[0] in ("reduce", "layers", "model") and name in a and not
                     np.allclose(a[name][:], b[name][:], rtol=1e-3, atol=1e-4, equal_nan=True)]
        test.check(f"{what}: the numbers of a run that is not compiled",
                   differing == [] and set(names) == {name for name in names if name in a}, str(differing[:4]))


def compiled(test, folder):
    """Compiled before or after it is attached, as a whole or by layers: the same file, and the run is as it was."""
    model, ids = hf_parts.tiny("llama3", "sdpa")
    plain = folder / "plain.capture.h5"
    capture = lambda model, path: kvscope.capture(model, path, profile="full", windows=[8], new_tokens=hf_parts.STEPS)
    with torch.no_grad(), capture(model, plain):
        expected = hf_parts.feed(model, ids)
    as_before = lambda outputs: all(torch.allclose(a.logits, b.logits, atol=1e-3) for a, b in zip(outputs, expected))
    for kind in ("whole", "layers"):
        torch._dynamo.reset()
        model, _ = hf_parts.tiny("llama3", "sdpa")
        if kind == "whole":
            model = torch.compile(model)
            with torch.no_grad():
                hf_parts.feed(model, ids)  # its graphs are there before the hooks
        else:
            for layer in model.model.layers:
                layer.compile()
        path = folder / f"{kind}.capture.h5"
        with torch.no_grad(), capture(model, path) as run:
            outputs = hf_parts.feed(model, ids)
        test.check(f"compiled, {kind}: steps", run.steps == hf_parts.STEPS and run.notes == [])
        test.check(f"compiled, {kind}: the run is as it was", as_before(outputs))
        same_numbers(test, f"compiled, {kind}", path, plain)
        with torch.no_grad():
            test.check(f"compiled, {kind}: and afterwards", as_before(hf_parts.feed(model, ids)))


def programs(test, folder):
    """view, extract, compare, decide and report of an attached file."""
    model, ids = hf_parts.tiny("llama3", "sdpa")
    first, second = folder / "first.capture.h5", folder / "second.capture.h5"
    for path in (first, second):
        with torch.no_grad(), kvscope.capture(model, path, profile="qkv", windows=[8], new_tokens=hf_parts.STEPS):
            hf_parts.feed(model, ids)
    compared = test.program("compare", str(first), str(second))
    test.check("compare: two captures of one run are equal", "no differences" in compared, compared.strip()[-160:])
    part = folder / "part.h5"
    test.program("extract", str(first), "--layers", "1", "-o", str(part))
    with h5py.File(first) as whole, h5py.File(part) as cut:
        test.check("extract: keys of the layer", np.array_equal(whole["layers/001/keys"][:], cut["layers/001/keys"][:]))
    test.program("decide", str(first), "-m", "snapkv:window=8", "--keep", "0.5", "-o", str(folder / "decided"))
    decision = next((folder / "decided").glob("*.decision.h5"))
    test.check("report names the method", "snapkv" in test.program("report", str(first), str(decision)))
    picture = folder / "fates.png"
    viewer = os.path.join(test.ARGUMENTS.programs, "kvscope-viewer")
    done = subprocess.run([viewer, str(first), str(decision), "--render", str(picture)], capture_output=True, text=True,
                          check=False)
    test.check("view", done.returncode == 0 and picture.stat().st_size > 5000, done.stderr.strip()[-200:])


def variants(test, folder):
    for dtype in (torch.bfloat16, torch.float16):
        half_precision(test, folder, dtype)
    programs(test, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled(test, folder)
