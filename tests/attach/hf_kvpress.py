"""hf_attach.py kvpress: what presses evict is recorded as evicted, fake keys included."""

import h5py
import kvpress as presses
import numpy as np
import torch
import transformers

import hf_parts
import kvscope

RATIO = 0.5


def run(model, ids, press, path, profile="scores"):
    """A prompt under a press, then four tokens on what it leaves, at their true positions."""
    with torch.no_grad(), kvscope.capture(model, path, profile=profile, windows=[8], new_tokens=hf_parts.STEPS) as capture:
        cache = transformers.DynamicCache()
        with press(model):
            outputs = [model(input_ids=ids, past_key_values=cache)]
            kept = [layer.keys.clone() for layer in cache.layers]
            hidden = [module.self_attn.masked_key_indices if hasattr(module.self_attn, "masked_key_indices") else None
                      for module in model.model.layers]
        for step in range(hf_parts.STEPS):
            place = torch.tensor([[ids.shape[1] + step]])
            outputs.append(model(input_ids=torch.tensor([[(step * 17 + 24) % 96]]), past_key_values=cache, position_ids=place))
    return capture, outputs, kept, hidden


def fates(test, name, capture, kept, hidden, path):
    """Which tokens hold a slot: of the keys in the file, those that are still in the cache and not hidden."""
    with h5py.File(path) as file, h5py.File(capture.decision_path) as decision:
        fate = decision["decisions/fate"][:] & 15  # [layer, kv_head, token]
        tokens = int(file.attrs["prompt_tokens"])
        group = int(file.attrs["query_heads"]) // int(file.attrs["kv_heads"])
        for layer, keys in enumerate(kept):
            stored = torch.from_numpy(file[f"layers/{layer:03d}/keys"][:])
            for head in range(stored.shape[0]):
                columns = set(range(keys.shape[2]))
                if hidden[layer] is not None:
                    columns -= {int(column) for h, column in zip(hidden[layer][1], hidden[layer][2]) if int(h) == head}
                expected = {int((stored[head] == keys[0, head, column]).all(1).nonzero()[0]) for column in columns}
                found = set(np.flatnonzero(fate[layer, head, :tokens] == 0).tolist())
                if found != expected:
                    test.check(f"{name}: fates of layer {layer}, KV head {head}", False, f"{sorted(found ^ expected)}")
        slots = file["steps/cache_slots"][:]
        alive = (fate[:, :, :tokens] == 0).sum(2)
        test.check(f"{name}: slots of step 1", np.array_equal(slots[0], alive + 1), f"{slots[0].tolist()}")
        # What a step gives to evicted tokens is nothing: none is among its most attended.
        top = file["steps/top_key"][:]
        bad = 0
        for (step, layer, head), keys in np.ndenumerate(top[:, :, :, 0]):
            row = top[step, layer, head]
            bad += sum(int(fate[layer, head // group, key]) != 0 for key in row if 0 <= key < tokens)
        test.check(f"{name}: no evicted token is attended to", bad == 0)
    return fate


def kvpress(test, folder):
    model, ids = hf_parts.tiny("llama3", "sdpa")
    cases = {"knorm": presses.KnormPress(RATIO), "snapkv": presses.SnapKVPress(RATIO, window_size=8),
             "adakv": presses.AdaKVPress(presses.KnormPress(RATIO))}
    for name, press in cases.items():
        path = folder / f"{name}.capture.h5"
        capture, outputs, kept, hidden = run(model, ids, press, path, "qkv")
        test.check(f"{name}: recorded", capture.steps == hf_parts.STEPS and capture.decision_path is not None)
        fate = fates(test, name, capture, kept, hidden, path)
        share = float((fate[:, :, : ids.shape[1]] == 0).mean())
        test.check(f"{name}: half is kept", abs(share - RATIO) < 0.03, f"{share:.3f}")
        with h5py.File(path) as file:
            method = file.attrs["method"].decode()
            test.check(f"{name}: method", method.startswith(f"kvpress.{type(press).__name__}("), method)
        # the same press without a capture gives the same run
        again = plain(model, ids, press)
        test.check(f"{name}: the run is as it was", all(torch.equal(a.logits, b) for a, b in zip(outputs, again)))
        test.program("check", str(path))
        test.program("check", capture.decision_path)
        report = test.program("report", str(path), capture.decision_path)
        test.check(f"{name}: report", "kvpress" in report)
    merged = presses.KeyRerotationPress(presses.KnormPress(RATIO))
    test.refused("keys rotated anew", "did not compute", lambda: run(model, ids, merged, folder / "turned.capture.h5"))
    pipeline(test, folder)


def plain(model, ids, press):
    logits = []
    with torch.no_grad():
        cache = transformers.DynamicCache()
        with press(model):
            logits.append(model(input_ids=ids, past_key_values=cache).logits)
        for step in range(hf_parts.STEPS):
            place = torch.tensor([[ids.shape[1] + step]])
            logits.append(model(input_ids=torch.tensor([[(step * 17 + 24) % 96]]), past_key_values=cache,
                                position_ids=place).logits)
    return logits


def pipeline(test, folder):
    """kvpress's own loop: the context through the stack of layers alone, then a question in one pass."""
    model, ids = hf_parts.tiny("qwen2", "sdpa")
    path = folder / "pipeline.capture.h5"
    press = presses.SnapKVPress(RATIO, window_size=8)
    question = torch.tensor([[11, 12, 13, 14]])
    with torch.no_grad(), kvscope.capture(model, path, profile="qkv", windows=[8], new_tokens=7) as capture:
        cache = transformers.DynamicCache()
        with press(model):
            model.model(input_ids=ids, past_key_values=cache)
        place = torch.arange(ids.shape[1], ids.shape[1] + 4).unsqueeze(0)
        out = model(input_ids=question, past_key_values=cache, position_ids=place, logits_to_keep=1)
        for step in range(3):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=cache, position_ids=torch.tensor([[ids.shape[1] + 4 + step]]))
    test.check("pipeline: steps", capture.steps == 7)
    with h5py.File(path) as file:
        test.check("pipeline: segments", list(file["tokens/segment"][ids.shape[1]:]) == [2, 2, 2, 2, 3, 3, 3])
        logits = file["steps/logit_token"][:, 0]
        test.check("pipeline: logits where there are any", list(logits[:3]) == [-1, -1, -1] and logits[3] >= 0)
        slots = file["steps/cache_slots"][:, 0, 0]
        test.check("pipeline: slots", list(np.diff(slots)) == [1] * 6, f"{slots.tolist()}")
    test.program("report", str(path), capture.decision_path)
