"""Goldens of AsymKV and KVSlimmer: both written out again in float64 from their description, on the tiny model or a real one.

usage: pair_merging.py data/tiny.gguf pair_merging.json
       pair_merging.py models/smollm2.gguf smollm2_merging.json smollm2_decisions.json     (whose first 256 token ids it reads)

Nothing here is shared with kvscope: the model's forward pass, the chunk loop, the ranking of pairs, key weights,
the commit with its lost tokens, positions from multiplicities and the gradients (torch autograd, float64, the whole
graph at once) are written from the papers' and the released code's description. Made with torch 2.11.0, gguf 0.19,
numpy 2. Tolerance of what is compared: kept, merged and dropped tokens equal; key weights 1e-5 (1e-3 of
themselves outside [0, 1]), logits 2e-4 (the
model under test runs in float32). AsymKV's finished keys are quotients of squared gradients, compared
with gradients in float64 on the float32 cache: 2e-4 at the first event, mean 5e-5; 0.1 later, mean 1e-2; its logits 1e-2
(in float32 they lose digits where both nearly vanish, and differ between processors). The oracle's
weights are quotients of differences of gradients: its first event is compared, half of the weights within 1e-5 and nine in
ten within 1e-3; one weight off reaches every later choice. On SmolLM2 with gradients in float64: code and paper 1e-5
throughout, AsymKV 1e-5 for 99 in 100, the oracle 1e-5 for 85 in 100 of its first event (the cache stays float32). `gap`
is the smallest relative distance between the last chosen and the first rejected score of a case: far above float32
rounding, so that equality may be asked for.
"""

import json
import math
import sys

import torch
from llama_float64 import Model

EPS = 1e-21
GAMMA = 4096 / math.log(512)


class Cache:
    """One layer: pre-RoPE keys [kv, T, dim], summed values, multiplicities [T], the token of each slot."""

    def __init__(self, model):
        self.k = torch.zeros(model.kv, 0, model.dim)
        self.v = torch.zeros(model.kv, 0, model.dim)
        self.l = torch.zeros(0)
        self.token = []


def forward(model, caches, ids, first_token, keep_graph=False):
    """Runs a chunk on the caches. Returns logits, per layer (new k, new v, p, output, cached-key leaf); appends nothing."""
    w = model.w
    x = w["token_embd.weight"][ids].requires_grad_(keep_graph)
    n, r = len(ids), model.heads // model.kv
    seen = []
    for layer, cache in enumerate(caches):
        p = f"blk.{layer}."
        h = model.norm(x, p + "attn_norm")
        split = lambda name, heads: (h @ w[p + name + ".weight"].T).view(n, heads, model.dim).transpose(0, 1)
        q, k, v = split("attn_q", model.heads), split("attn_k", model.kv), split("attn_v", model.kv)
        past = int(cache.l.sum().item())
        positions = torch.arange(past, past + n)
        slots = (torch.cumsum(cache.l, 0) - cache.l[0]).long() if len(cache.l) else torch.zeros(0, dtype=torch.long)
        leaf = cache.k.clone().requires_grad_(keep_graph)
        every = torch.cat([slots, positions])
        q = model.rope(q, positions)
        keys = model.rope(torch.cat([leaf, k], 1), every).repeat_interleave(r, 0)
        l = torch.cat([cache.l, torch.ones(n)])
        logits = q @ keys.transpose(1, 2) / math.sqrt(model.dim)
        logits = logits.masked_fill(every[None, None, :] > positions[None, :, None], -math.inf)
        e = torch.exp(logits - logits.max(-1, keepdim=True).values)
        prob = e / (e * l).sum(-1, keepdim=True)  # multiplicity in the denominator only
        out = prob @ torch.cat([cache.v, v], 1).repeat_interleave(r, 0)
        if keep_graph:
            out.retain_grad()
        x = x + out.transpose(0, 1).reshape(n, -1) @ w[p + "attn_output.weight"].T
        x = model.mlp(x, layer)
        seen.append(dict(k=k.detach(), v=v.detach(), p=prob.detach(), out=out, leaf=leaf, raw=k))
    return model.norm(x, "output_norm") @ w["token_embd.weight"].T, seen


def scores_of(model, mass, l, mid, variant):
    """mass [heads, slots] = sum over queries of p, times l. One score for each pair of neighbours in mid."""
    m = mass[:, mid]
    share = 1.0 if variant["method"] == "asymkv" else model.kv / model.heads
    pair = share * (m[:, :-1] + m[:, 1:]).sum(0)
    i = torch.arange(1, len(pair) + 1, dtype=torch.float64)
    count = model.kv * (l[mid][:-1] + l[mid][1:])
    if variant.get("lsum") == "constant":
        count = count.sum()
    return pair / torch.exp(i / GAMMA) * count


def curvature(model, layer_seen, cache, mid, mass, variant, history, chunk):
    """Per KV head: diagonal [mid] and cross [pairs], the weights of a pair being diagonal - cross."""
    r = model.heads // model.kv
    a = mass.view(model.kv, r, -1).mean(1)[:, mid]
    alpha = a / (a.sum(-1, keepdim=True) + EPS)
    l, kind = cache.l[mid], variant["variant"]
    v_sum, v_mean = cache.v[:, mid], cache.v[:, mid] / l[None, :, None]
    if kind == "code":
        v = v_mean if variant.get("proxy_value") == "mean" else v_sum
        o = (alpha[..., None] * v).sum(1, keepdim=True)
        h = alpha * (1 - 2 * alpha) * (v - o).abs().sum(-1)
        n = max(1, chunk)
        for g in range(model.kv):
            for j, slot in enumerate(range(mid.start, mid.stop)):
                key = (g, cache.token[slot])
                if key in history:
                    h[g, j] = h[g, j] / n + (n - 1) / n * history[key]
                history[key] = h[g, j].item()
        big = h / (alpha * (1 - 2 * alpha) + EPS)
        return h, alpha[:, :-1] * alpha[:, 1:] * (big[:, :-1] + big[:, 1:])
    if kind == "paper" and variant.get("agg") != "per_query":
        o = (alpha[..., None] * v_mean).sum(1, keepdim=True)
        d = v_mean - o
        own = (alpha * (1 - 2 * alpha))[..., None] * d
        cross = (alpha[:, :-1] * alpha[:, 1:])[..., None] * (d[:, :-1] + d[:, 1:])
        return own.norm(dim=-1), cross.norm(dim=-1)
    # per query and head: the whole softmax and the true attention output
    full = layer_seen["p"][..., : len(cache.l)] * cache.l
    p = full[..., mid].view(model.kv, r, -1, len(l))
    o = layer_seen["out"].detach().view(model.kv, r, -1, model.dim)
    d = v_mean[:, None, None] - o[..., None, :]  # [kv, r, q, mid, dim]
    own = (p * (1 - 2 * p))[..., None] * d
    cross = (p[..., :-1] * p[..., 1:])[..., None] * (d[..., :-1, :] + d[..., 1:, :])
    if kind == "paper":
        return own.norm(dim=-1).mean((1, 2)), cross.norm(dim=-1).mean((1, 2))
    e = layer_seen["out"].grad.view(model.kv, r, -1, model.dim)[..., None, :]
    return (own * e).sum(-1).mean((1, 2)), (cross * e).sum(-1).mean((1, 2))


def commit(model, cache, mid, chosen, rule, clamp):
    """Overwrites slot i of every chosen pair and deletes slot i + 1: what the released loop does."""
    chosen = set(chosen)
    k, v, l = cache.k.clone(), cache.v.clone(), cache.l.clone()
    keep, merges, dropped = [True] * len(cache.l), [], []
    for i in sorted(chosen):
        s = mid.start + i
        k[:, s], weights, rows = rule(i)
        v[:, s] = cache.v[:, s] + cache.v[:, s + 1]
        l[s] = cache.l[s] + cache.l[s + 1]
        keep[s + 1] = False
        if i - 1 in chosen:  # the pair before takes its slot
            dropped.append(cache.token[s + 1])
        else:
            merges.append([cache.token[s], cache.token[s + 1], weights] + ([] if rows is None else [rows]))
    before = cache.l.sum().item()
    lost = sum(cache.l[cache.token.index(t)].item() for t in dropped)
    l[mid.start :] = torch.clamp(l[mid.start :], max=clamp)
    index = [s for s, stays in enumerate(keep) if stays]
    cache.k, cache.v, cache.l = k[:, index], v[:, index], l[index]
    cache.token = [cache.token[s] for s in index]
    return merges, dropped, before - lost - cache.l.sum().item()


def cut(model, caches, seen, extra, sizes, variant, histories, chunk):
    """One compression of all layers. `extra`: the chunk's own slots belong to the past too (final cut)."""
    event = []
    for layer, cache in enumerate(caches):
        s = seen[layer]
        gradient = s["leaf"].grad
        if extra:
            cache.k = torch.cat([cache.k, s["k"]], 1)
            cache.v = torch.cat([cache.v, s["v"]], 1)
            cache.l = torch.cat([cache.l, torch.ones(s["k"].shape[1])])
            cache.token += list(range(*extra))
            gradient = None if gradient is None else torch.cat([gradient, s["raw"].grad], 1)
        past = len(cache.l)
        mid = slice(sizes["sink"], past)
        mass = s["p"][..., :past].sum(1) * cache.l
        history = histories[layer]
        if variant["method"] == "kvslimmer":
            own, cross = curvature(model, s, cache, mid, mass, variant, history, chunk)
        remove = min(past - sizes["cache"], past - sizes["sink"] - 1)
        if remove <= 0:
            continue
        score = scores_of(model, mass, cache.l, mid, variant)
        order = torch.argsort(score, stable=True)
        chosen = sorted(order[:remove].tolist())
        last, first = score[order[remove - 1]].item(), score[order[remove]].item()
        keys, tokens = cache.k.clone(), list(cache.token)
        if variant["method"] == "asymkv":
            def rule(i):
                a = mid.start + i
                h1, h2 = gradient[:, a] ** 2, gradient[:, a + 1] ** 2
                k = (h1 * keys[:, a] + h2 * keys[:, a + 1]) / (h1 + h2 + EPS)
                return k, (h1 / (h1 + h2 + EPS)).mean(-1).tolist(), k.tolist()
        else:
            eps = EPS if variant["variant"] == "code" else 0.0
            updates = {}
            def rule(i):
                a = mid.start + i
                one, two = own[:, i] - cross[:, i], own[:, i + 1] - cross[:, i]
                wa, wb = one / (one + two + eps), two / (one + two + eps)
                if variant["variant"] == "code":
                    merged = wa ** 2 * own[:, i] + wb ** 2 * own[:, i + 1]
                    updates[i] = (tokens[a], merged)
                return wa[:, None] * keys[:, a] + wb[:, None] * keys[:, a + 1], wa.tolist(), None
        merges, dropped, clamped = commit(model, cache, mid, chosen, rule, sizes["clamp"])
        if variant["method"] == "kvslimmer" and variant["variant"] == "code":
            for i, (token, merged) in updates.items():
                if i - 1 not in chosen:
                    for g in range(model.kv):
                        history[(g, token)] = merged[g].item()
        event.append(dict(merges=merges, dropped=dropped, clamp_loss=clamped, gap=(first - last) / first))
    return event


def run(model, ids, sizes, variant):
    caches = [Cache(model) for _ in range(model.layers)]
    histories = [{} for _ in range(model.layers)]
    wants_gradient = variant["method"] == "asymkv" or variant["variant"] == "oracle"
    events, first, chunk = [], 0, 0
    while first < len(ids):
        part = ids[first : first + sizes["chunk"]]
        last = first + len(part) == len(ids)
        for final in [False] * (chunk > 0) + [True]:
            if final and not last:
                _, seen = forward(model, caches, part, first)
                grow(caches, seen, first, len(part))
                continue
            logits, seen = forward(model, caches, part, first, wants_gradient)
            if wants_gradient:
                for s in seen:
                    s["raw"].retain_grad()
                loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(part[1:]))
                loss.backward()
            extra = (first, first + len(part)) if final else None
            event = cut(model, caches, seen, extra, sizes, variant, histories, chunk + (1 if final else 0))
            if event:
                events.append(event)
        first += len(part)
        chunk += 1
    with torch.no_grad():
        after, _ = forward(model, caches, [17, 4, 250], len(ids))
    return dict(method=variant, events=events, slots=[c.token for c in caches],
                multiplicity=[c.l.tolist() for c in caches],
                gap=min(layer["gap"] for event in events for layer in event),
                logits=logits[-1].detach()[:16].tolist(), after=after[-1][:16].tolist())


def grow(caches, seen, first, count):
    for cache, s in zip(caches, seen):
        cache.k = torch.cat([cache.k, s["k"]], 1)
        cache.v = torch.cat([cache.v, s["v"]], 1)
        cache.l = torch.cat([cache.l, torch.ones(count)])
        cache.token += list(range(first, first + count))


def tiny_ids():
    x, ids = 12345, []
    for _ in range(150):
        x = (1103515245 * x + 12345) % 2**31
        ids.append(3 + (x >> 16) % 290)
    return ids


def shortened(result):
    """Of a real model: no finished keys, slots or logits, and weights of every third layer."""
    for event in result["events"]:
        for index, layer in enumerate(event):
            layer["merges"] = [merge[: 3 if index % 3 == 0 else 2] for merge in layer["merges"]]
    return {name: result[name] for name in ("method", "events", "gap")}


def main(source, target, ids=None):
    model, real = Model(source), ids is not None
    slimmer = dict(method="kvslimmer", variant="code", lsum="constant")
    cases = [dict(method="asymkv"), slimmer, dict(method="kvslimmer", variant="paper"),
             dict(method="kvslimmer", variant="oracle")]
    if real:
        with open(ids, encoding="utf-8") as file:
            ids = json.load(file)["ids"][:256]
        sizes, cases = dict(chunk=64, sink=8, cache=128, clamp=5), [slimmer, *cases[2:], cases[0]]
    else:
        ids, sizes = tiny_ids(), dict(chunk=24, sink=4, cache=60, clamp=5)
        cases[2:2] = [{**slimmer, "lsum": "per_pair", "proxy_value": "mean"}]
        cases[4:4] = [dict(method="kvslimmer", variant="paper", agg="per_query")]
    results = [run(model, ids, sizes, case) for case in cases]
    for result in results:
        lost = [sum(len(layer["dropped"]) for layer in event) for event in result["events"]]
        print(result["method"], "gap %.1e" % result["gap"], "dropped per event", lost, file=sys.stderr)
    kept = [shortened(result) for result in results] if real else results
    rounded = json.loads(json.dumps(dict(ids=ids, sizes=sizes, cases=kept)), parse_float=lambda f: float("%.8g" % float(f)))
    with open(target, "w") as out:
        json.dump(rounded, out, separators=(",", ":"))


if __name__ == "__main__":
    main(*sys.argv[1:])
