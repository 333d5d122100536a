"""The parts of hf_attach.py; each takes that module (checks, tolerances) and an empty folder."""

import threading
import time

import families as golden
import h5py
import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import kvscope

# families.py's tiny seeded models; tokens fed after the prompt
FAMILIES = ("llama3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mistral")
STEPS = 4


def tiny(family, attention="eager"):
    architecture, changes, tokens = golden.FAMILIES[family]
    config = AutoConfig.for_model(architecture, **{**golden.BASE, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    golden.fill(model, family)
    ids = torch.tensor([[(token * 29 + 5) % 96 for token in range(tokens)]])
    return model, ids


def feed(model, ids, steps=STEPS, **options):
    """A prompt, then tokens 7, 24, ... one by one; returns each pass's output."""
    outputs = []
    with torch.no_grad():
        cache = transformers.DynamicCache(config=model.config)
        outputs.append(model(input_ids=ids, past_key_values=cache, use_cache=True, **options))
        for step in range(1, steps + 1):
            outputs.append(model(input_ids=torch.tensor([[(step * 17 + 7) % 96]]), past_key_values=cache, **options))
    return outputs


def against_eager(test, family, path, outputs, tokens):
    """Column sums, window sums, last query, entropy of the maps that eager attention returns."""
    maps = torch.stack([attention[0] for attention in outputs[0].attentions]).double().numpy()  # [L, Q, n, n]
    with h5py.File(path) as file:
        plane = lambda name: file["reduce/" + name][:, :, :tokens]
        test.near(f"{family}: attention_sum", plane("attention_sum"), maps.sum(2))
        test.near(f"{family}: attention_max", plane("attention_max"), maps.max(2))
        test.near(f"{family}: window_sum", plane("window_sum"), maps[:, :, -8:].sum(2))
        test.near(f"{family}: last_query", plane("last_query"), maps[:, :, -1])
        entropy = -(maps * np.log(np.where(maps > 0, maps, 1))).sum(3)
        test.near(f"{family}: entropy", plane("entropy"), entropy)
        test.check(f"{family}: self check", float(file["reduce/self_check"][:].max()) < 1e-4)
        steps = file["steps/entropy"][:]
        for step in range(STEPS):
            expected = []
            for attention in outputs[1 + step].attentions:
                row = attention[0, :, -1].double().numpy()
                expected.append(-(row * np.log(np.where(row > 0, row, 1))).sum(1))
            test.near(f"{family}: step {step + 1} entropy", steps[step], expected)
        logits = torch.log_softmax(outputs[0].logits[0, -1], 0)
        test.check(f"{family}: likeliest token", int(file["model/logit_token"][0]) == int(logits.argmax()))
        test.near(f"{family}: its log probability", file["model/logit_logprob"][0], float(logits.max()))


def tensors(test, family, path, model, ids):
    """Q from LSE and K, V: what is stored gives the maps of eager attention back."""
    cache = transformers.DynamicCache()  # full in every layer
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    with h5py.File(path) as file:
        for layer in range(len(cache.layers)):
            stored = file[f"layers/{layer:03d}"]
            test.near(f"{family}: keys {layer}", stored["keys"][:], cache.layers[layer].keys[0].numpy())
            test.near(f"{family}: values {layer}", stored["values"][:], cache.layers[layer].values[0].numpy())
            queries = torch.from_numpy(stored["queries"][:])
            keys = torch.from_numpy(stored["keys"][:]).repeat_interleave(queries.shape[0] // stored["keys"].shape[0], 0)
            logits = queries @ keys.transpose(1, 2) * float(file.attrs["attention_scale"])
            if file.attrs["logit_softcap"] > 0:
                logits = torch.tanh(logits / float(file.attrs["logit_softcap"])) * float(file.attrs["logit_softcap"])
            window = int(file["axes/layer_window"][layer])
            place = torch.arange(ids.shape[1])
            seen = (place[None] <= place[:, None]) & ((place[None] > place[:, None] - window) if window else True)
            lse = torch.logsumexp(logits.masked_fill(~seen, -torch.inf), 2)
            test.near(f"{family}: lse {layer}", file["reduce/lse"][layer, :, : ids.shape[1]], lse.numpy())


def against_own(test, family, path, model, ids, folder):
    """Our own runtime's capture of the same weights and tokens: the same datasets, the same numbers."""
    weights = folder / f"{family}_model"
    model.save_pretrained(weights)
    (folder / "ids.txt").write_text(" ".join(str(token) for token in ids[0].tolist()))
    own = folder / f"{family}.own.capture.h5"
    test.program("capture", str(weights), "--token-ids", str(folder / "ids.txt"), "--profile", "full", "--window", "8",
                 "-o", str(own))
    with h5py.File(own) as a, h5py.File(path) as b:
        names = []
        a.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in sorted(names):
            kind = name.split("/")[0]
            if kind in ("status", "steps", "tokens", "axes") or name.endswith(("top_key", "self_check")):
                continue
            if name not in b:
                test.check(f"{family}: {name}", False, "missing")
            elif kind != "model":
                cut = tuple(slice(0, size) for size in a[name].shape)
                worst = np.abs(b[name][cut].astype("f8") - a[name][:].astype("f8")).max() / np.abs(a[name][:]).max()
                if not worst < 5e-4:
                    test.check(f"{family}: {name} of our own runtime", False, f"{worst:.1e}")
        test.check(f"{family}: {len(names)} datasets of our own runtime", True)
        for name in ("layers", "query_heads", "kv_heads", "head_dim", "hidden_dim", "rope_dims"):
            test.check(f"{family}: {name}", a.attrs[name] == b.attrs[name], f"{b.attrs[name]}")
        for name in ("rope_inverse_frequency", "attention_scale", "logit_softcap", "layer_windows"):
            test.near(f"{family}: {name}", b.attrs.get(name, []), a.attrs.get(name, []), 1e-6)
    program = test.program("check", str(path))
    test.check(f"{family}: check", "0 findings" in program or "sound" in program or not program.strip(), program[:80])


def families(test, folder):
    for family in FAMILIES:
        model, ids = tiny(family)
        tokens = ids.shape[1]
        outputs = feed(model, ids, output_attentions=True)
        for attention in ("eager", "sdpa"):
            if attention == "sdpa" and family == "gemma2":
                continue  # sdpa leaves out its softcap: another model
            model.set_attn_implementation(attention)
            path = folder / f"{family}.{attention}.capture.h5"
            with kvscope.capture(model, path, profile="full", windows=[8], new_tokens=STEPS) as run:
                again = feed(model, ids)
            test.check(f"{family}: restored", model.config._attn_implementation == attention)
            test.check(f"{family}: {attention}", run.steps == STEPS and run.prompt_tokens == tokens)
            if attention == "eager":
                test.check(f"{family}: the run is as it was", all(
                    torch.equal(a.logits, b.logits) for a, b in zip(outputs, again)))
            against_eager(test, f"{family} {attention}", path, outputs, tokens)
            tensors(test, f"{family} {attention}", path, model, ids)
        against_own(test, family, path if family != "gemma2" else folder / "gemma2.eager.capture.h5", model, ids, folder)
        chunks(test, family, folder, model, ids)


def chunks(test, family, folder, model, ids):
    """The prompt in pieces, on the model's own cache: the file of the prompt in one piece."""
    one, pieces = folder / f"{family}.one.capture.h5", folder / f"{family}.chunks.capture.h5"
    with torch.no_grad():
        with kvscope.capture(model, one, profile="scores", windows=[8], new_tokens=0):
            model(input_ids=ids)
        with kvscope.capture(model, pieces, profile="scores", windows=[8], new_tokens=0, prompt=ids):
            cache = transformers.DynamicCache(config=model.config)
            for first in range(0, ids.shape[1], 9):
                model(input_ids=ids[:, first:first + 9], past_key_values=cache)
    with h5py.File(one) as a, h5py.File(pieces) as b:
        for name in ("attention_sum", "attention_sum_squares", "entropy", "window_sum", "key_norm", "value_norm"):
            test.near(f"{family} in chunks: {name}", b["reduce/" + name][:], a["reduce/" + name][:])


def generate(test, folder):
    import hf_generate
    hf_generate.generate(test, folder)


def kvpress(test, folder):
    import hf_kvpress
    hf_kvpress.kvpress(test, folder)


def variants(test, folder):
    import hf_variants
    hf_variants.variants(test, folder)


def followed(path, steps, seconds=20.0):
    """Steps that a reader of a growing file saw, in order."""
    seen = []

    def follow():
        end = time.time() + seconds
        while time.time() < end and (not seen or seen[-1] < steps):
            try:
                with h5py.File(path, "r", swmr=True) as file:
                    ring = file["status/commit"][:]
                    seen.append(int(ring[ring[:, 0].argmax()][1]))
            except OSError:
                pass
            time.sleep(0.02)

    thread = threading.Thread(target=follow)
    thread.start()
    return thread, seen
