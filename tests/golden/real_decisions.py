"""What SnapKV, LaProx, TriAttention and alpha keep of a real SmolLM2 run, written out again in float64.

usage: real_decisions.py models/smollm2.gguf data/demo/passage.txt OUT.json

The model runs in float64 (llama_float64.py) over the first TOKENS tokens of the passage; TriAttention is calibrated on
the whole passage, read at once. Every rule is written from its paper's description; nothing is shared with kvscope.
Kept tokens are hexadecimal bit strings, token 0 first, one for each layer and KV head. alpha's are the picks in order
and how many of them are sure: up to the first that leads by less than 1e-4. Tolerance of what is compared: kept tokens
equal but where a score lies within 1e-4 (relative) of the cut. Made with torch 2.11.0, gguf 0.19, transformers 5.2.0.
"""

import json
import os
import sys

import torch
from llama_float64 import Model, run_prompt
from transformers import AutoTokenizer

TOKENS, SLOTS = 320, 112


def pooled(x, width):
    """Mean over neighbours along the last axis; zeros count beyond the ends."""
    padded = torch.nn.functional.pad(x, (width // 2, width // 2))
    return sum(padded[..., i : i + x.shape[-1]] for i in range(width)) / width


def grouped(x, kv):
    return x.view(kv, -1, *x.shape[1:])


def ranked(scores):
    """Indices, best first; equal scores: the lower one first."""
    return torch.argsort(scores, descending=True, stable=True)


def bits(tokens):
    flags = [1 if t in tokens else 0 for t in range(TOKENS)]
    return "%0*x" % (TOKENS // 4, int("".join(map(str, flags)), 2))


def snapkv(model, run, window=64, pool=5):
    kept = []
    for layer in run:
        mean = layer["p"][:, -window:, : TOKENS - window].mean(1)
        score = pooled(grouped(mean, model.kv).mean(1), pool)
        recent = set(range(TOKENS - window, TOKENS))
        kept.append([set(ranked(head)[: SLOTS - window].tolist()) | recent for head in score])
    return kept


def laprox(model, run, window=32, pool=7):
    candidates, shares = TOKENS - window, []
    for index, layer in enumerate(run):
        columns = layer["p"][:, -window:, :candidates].square().sum(1).sqrt()
        wo = model.w[f"blk.{index}.attn_output.weight"].view(-1, model.heads, model.dim)
        norms = torch.stack([(layer["v"][h // (model.heads // model.kv), :candidates] @ wo[:, h].T).norm(dim=-1)
                             for h in range(model.heads)])
        score = pooled(grouped(columns * norms, model.kv).mean(1), pool)
        shares.append(score / score.sum())
    every = torch.cat([share.flatten() for share in shares])
    winners = ranked(every)[: model.layers * model.kv * (SLOTS - window)]
    kept = [[set(range(candidates, TOKENS)) for _ in range(model.kv)] for _ in run]
    for place in winners.tolist():
        layer, rest = divmod(place, model.kv * candidates)
        kept[layer][rest // candidates].add(rest % candidates)
    return kept


def centres(model, corpus):
    """Complex mean and mean length of the raw queries in each band: [layers, heads, bands]."""
    half, mean, length = model.dim // 2, [], []
    for layer in run_prompt(model, corpus):
        q = torch.complex(layer["raw"][..., :half], layer["raw"][..., half:])
        mean.append(q.mean(1))
        length.append(q.abs().mean(1))
    return torch.stack(mean), torch.stack(length)


def tri_scores(model, run, mean, length, offsets=17):
    """z-scores [layers, heads, TOKENS]: the series over distances, each key turned back first."""
    half, omega, position = model.dim // 2, model.omega(), torch.arange(TOKENS)
    z = []
    for index, layer in enumerate(run):
        k = torch.complex(layer["k"][..., :half], layer["k"][..., half:])
        k = k * torch.exp(-1j * omega * position[:, None])
        k = k.repeat_interleave(model.heads // model.kv, 0)
        centre = mean[index][:, None]
        amplitude, phase = centre.abs() * k.abs(), torch.angle(centre * k.conj())
        series = 0
        for power in range(offsets):
            distance = TOKENS - position[:, None] + 2.0**power
            series = series + (amplitude * torch.cos(omega * distance + phase)).sum(-1)
        score = series / offsets + ((length[index] - mean[index].abs())[:, None] * k.abs()).sum(-1)
        z.append(score)
    return torch.stack(z)


def z_scored(score):
    return (score - score.mean(-1, keepdim=True)) / score.std(-1, correction=0, keepdim=True).clamp(min=1e-6)


def triattention(model, raw, mode):
    z = z_scored(raw)
    top = z.view(model.layers, model.kv, -1, TOKENS).amax(2)
    if mode == "per_head":
        top = top.mean(0, keepdim=True).expand_as(top)
    if mode == "union":
        rows = z.view(-1, TOKENS)
        marked = set(t for row in rows for t in ranked(row)[:SLOTS].tolist())
        best = [t for t in ranked(rows.amax(0)).tolist() if t in marked]
        assert len(best) >= SLOTS
        return [[set(best[:SLOTS])] * model.kv] * model.layers
    return [[set(ranked(head)[:SLOTS].tolist()) for head in layer] for layer in top]


def alpha(model, run, raw, penalty, recent):
    """Picks of each layer and KV head in order, and how many of them are sure."""
    candidates = TOKENS - recent
    top = z_scored(raw[..., :candidates]).view(model.layers, model.kv, -1, candidates).amax(2)
    picks = []
    for layer, scores in zip(run, top):
        picks.append([])
        for values, score in zip(layer["v"], z_scored(scores)):
            unit = torch.nn.functional.normalize(values[:candidates], dim=-1, eps=1e-12)
            redundancy, order, sure = torch.zeros(candidates), [], None
            for _ in range(SLOTS - recent):
                objective = score - penalty * redundancy
                objective[order] = -torch.inf
                best = objective.topk(2)
                if sure is None and best.values[0] - best.values[1] < 1e-4:
                    sure = len(order)
                pick = best.indices[0].item()
                similar = unit @ unit[pick]
                redundancy = similar if not order else torch.maximum(redundancy, similar)
                order.append(pick)
            picks[-1].append({"order": order, "sure": len(order) if sure is None else sure})
    return picks


def main(model_path, passage_path, out_path):
    folder = os.path.dirname(os.path.abspath(model_path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=os.path.basename(model_path))
    with open(passage_path, encoding="utf-8") as file:
        corpus = tokenizer(file.read(), add_special_tokens=False)["input_ids"]
    model = Model(model_path)
    run = run_prompt(model, corpus[:TOKENS])
    raw = tri_scores(model, run, *centres(model, corpus))
    tri = "triattention:calibration=passage.calibration.h5,prompt=evictable,first_cut=prefill_end,mode="
    kept = {"snapkv": snapkv(model, run), "laprox": laprox(model, run)}
    for mode in ("per_head", "per_layer_perhead", "union"):
        kept[tri + mode] = triattention(model, raw, mode)
    cases = [{"method": name, "kept": [[bits(head) for head in layer] for layer in sets]} for name, sets in kept.items()]
    text = "alpha:calibration=passage.calibration.h5,first_cut=prefill_end,lambda="
    for penalty in (0.5, 2):
        cases.append({"method": f"{text}{penalty}", "picks": alpha(model, run, raw, penalty, 16)})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    with open(out_path, "w", encoding="utf-8") as out:
        out.write(f'{{"ids":{json.dumps(corpus[:TOKENS])},\n"corpus_tokens":{len(corpus)},"slots":{SLOTS},\n"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
