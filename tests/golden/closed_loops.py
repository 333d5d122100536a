"""Goldens of closed loops over the prompt's rows: H2O, TOVA and KeyDiff written out in float64 on the tiny model.

usage: closed_loops.py data/tiny.gguf closed_loops.json      (numpy 2, gguf 0.19)

Nothing here is shared with kvscope. The prompt is read one row at a time (KeyDiff: a block of rows), each row attends
to the slots that earlier cuts have left and to itself; then every layer and KV head evicts until the budget holds:

  h2o     running sums of attention, mean over a group's query heads; the newest `recent` slots stay; smallest sum goes
  tova    mean over all query heads of the newest row; smallest weight goes, the newest slot's own included ("scored")
  keydiff minus the cosine of each key to the head's mean unit key; the smallest scores go, a block at a time

Of equal scores the later token goes. `evicted` lists, per layer and KV head, [tokens seen at the cut, token] in order of
the cuts; `gap` is the smallest relative distance between the last slot kept and the first one lost, far above float32
rounding, so that equality may be asked for. Logits: 2e-4 (the model under test runs in float32).
"""

import json
import math
import sys

import numpy as np

import llama_float64


class Model(llama_float64.Model):
    """The same weights in numpy, for rows one by one."""

    def __init__(self, path):
        super().__init__(path)
        self.w = {name: weight.numpy() for name, weight in self.w.items()}

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean() + self.epsilon) * self.w[name + ".weight"]

    def rope(self, x, position):
        half = self.dim // 2
        angle = position * self.base ** (-np.arange(half) * 2 / self.dim)
        a, b = x[:, :half], x[:, half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 1)


class Head:
    """Slots of one layer and KV head."""

    def __init__(self):
        self.token, self.key, self.value, self.sum = [], [], [], []
        self.newest = None  # [slots] weights of the newest row, mean over the group
        self.evicted = []


def read_row(model, cache, token_id, token):
    """Runs one token through all layers and appends its slots. Returns its logits."""
    w, group = model.w, model.heads // model.kv
    x = w["token_embd.weight"][token_id]
    for layer, heads in enumerate(cache):
        p = f"blk.{layer}."
        h = model.norm(x, p + "attn_norm")
        split = lambda name, count: (w[p + name + ".weight"] @ h).reshape(count, model.dim)
        q, k = model.rope(split("attn_q", model.heads), token), model.rope(split("attn_k", model.kv), token)
        v = split("attn_v", model.kv)
        out = []
        for g, head in enumerate(heads):
            head.token.append(token)
            head.key.append(k[g])
            head.value.append(v[g])
            head.sum.append(0.0)
            rows = []
            for member in range(g * group, (g + 1) * group):
                logits = np.array(head.key) @ q[member] / math.sqrt(model.dim)
                weight = np.exp(logits - logits.max())
                weight /= weight.sum()
                rows.append(weight)
                out.append(weight @ np.array(head.value))
            head.newest = np.mean(rows, 0)
            head.sum = list(np.array(head.sum) + head.newest)
        x = x + w[p + "attn_output.weight"] @ np.concatenate(out)
        h = model.norm(x, p + "ffn_norm")
        gate, up = w[p + "ffn_gate.weight"] @ h, w[p + "ffn_up.weight"] @ h
        x = x + w[p + "ffn_down.weight"] @ (gate / (1 + np.exp(-gate)) * up)
    return w["token_embd.weight"] @ model.norm(x, "output_norm")


def scores(method, heads, head):
    if method == "h2o":
        return np.array(head.sum)
    if method == "tova":
        return np.mean([h.newest for h in heads], 0)
    keys = np.array(head.key)
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    mean = unit.mean(0)
    return -(unit @ mean) / np.linalg.norm(mean)


def cut(case, heads, slots, seen, gaps):
    """Evicts from one layer until its heads hold `slots`; all heads decide on what they held before."""
    choices = []
    for head in heads:
        free = len(head.token) - case.get("recent", 0) - (case["method"] == "tova" and not case["scored"])
        score = scores(case["method"], heads, head)[:free]
        order = sorted(range(free), key=lambda slot: (score[slot], -slot))
        count = len(head.token) - slots
        choices.append(sorted(order[:count]))
        last, first = score[order[count]], score[order[count - 1]]
        gaps.append(abs(last - first) / max(abs(last), abs(first)))
    for head, choice in zip(heads, choices):
        head.evicted += [[seen, head.token[slot]] for slot in choice]
        keep = [slot for slot in range(len(head.token)) if slot not in choice]
        for name in ("token", "key", "value", "sum"):
            setattr(head, name, [getattr(head, name)[slot] for slot in keep])
        head.newest = head.newest[keep]


def run(model, ids, case):
    cache = [[Head() for _ in range(model.kv)] for _ in range(model.layers)]
    slots, block, gaps = case["slots"], case.get("block", 1), []
    for token, token_id in enumerate(ids[:case["prompt"]]):
        logits = read_row(model, cache, token_id, token)
        last = token + 1 == case["prompt"]
        if ((token + 1) % block == 0 or last) and len(cache[0][0].token) > slots:
            for heads in cache:
                cut(case, heads, slots, token + 1, gaps)
    at_prompt_end = logits[:16].tolist()
    for token in range(case["prompt"], len(ids)):  # the loop goes on row by row behind the prompt
        logits = read_row(model, cache, ids[token], token)
        for heads in cache:
            cut(case, heads, slots, token + 1, gaps)
    return {**case, "gap": min(gaps), "logits": at_prompt_end, "after": logits[:16].tolist(),
            "kept": [[head.token for head in heads] for heads in cache],
            "evicted": [[head.evicted for head in heads] for heads in cache]}


def main(source, target):
    model = Model(source)
    x, ids = 12345, []
    for _ in range(112):
        x = (1103515245 * x + 12345) % 2**31
        ids.append(3 + (x >> 16) % 290)
    cases = [
        dict(text="h2o:recent=0.5 | rows", method="h2o", slots=32, recent=16, prompt=100),
        dict(text="h2o:recent=0.125 | rows", method="h2o", slots=24, recent=3, prompt=100),
        dict(text="tova | rows", method="tova", scored=False, slots=28, prompt=100),
        dict(text="tova:newest=scored | rows", method="tova", scored=True, slots=20, prompt=100),
        dict(text="keydiff | rows:block=16", method="keydiff", slots=40, block=16, prompt=100),
        dict(text="h2o:recent=0.25 | rows:block=7", method="h2o", slots=32, recent=8, block=7, prompt=100),
    ]
    results = [run(model, ids, case) for case in cases]
    for result in results:
        print(result["text"], "gap %.1e" % result["gap"], file=sys.stderr)
    header = {"made_by": "tests/golden/closed_loops.py", "numpy": np.__version__, "logit_tolerance": 2e-4, "ids": ids}
    lines = [json.dumps(json.loads(json.dumps(r), parse_float=lambda f: float("%.8g" % float(f))),
                        separators=(",", ":")) for r in results]
    with open(target, "w", encoding="utf-8") as out:
        out.write("{\n" + "".join(f"{json.dumps(k)}: {json.dumps(v)},\n" for k, v in header.items()))
        out.write('"cases": [\n' + ",\n".join(lines) + "\n]}\n")


main(sys.argv[1], sys.argv[2])
