"""LaProx, R-KV, H2O (sums over the prompt) and the pivot and weighted mergers, written out in float64 from their papers' rules.

usage: python float64_methods.py      (numpy only; writes float64_methods.json beside itself)

Shares no code with kvscope: loops over heads and tokens wherever a loop says it more plainly.
"""

import math
import pathlib

import numpy as np
from golden_input import layer_input, rounded, write

SIZES = {"grouped": (3, 4, 2, 48, 8, 16), "seven": (2, 7, 1, 37, 4, 8), "single": (2, 2, 2, 41, 8, 16)}


def attention_of(q, k):
    """Causal attention of every query, [query_heads, tokens, tokens]."""
    group = q.shape[0] // k.shape[0]
    tokens, dim = q.shape[1:]
    maps = []
    for head in range(q.shape[0]):
        logits = q[head] @ k[head // group].T / math.sqrt(dim)
        logits[np.triu_indices(tokens, 1)] = -np.inf
        weights = np.exp(logits - logits.max(1, keepdims=True))
        maps.append(weights / weights.sum(1, keepdims=True))
    return np.array(maps)


def pooled(row, kernel):
    """Mean over `kernel` neighbours; beyond the ends count zeros."""
    half = kernel // 2
    wide = np.concatenate([np.zeros(half), row, np.zeros(half)])
    return np.array([wide[at:at + kernel].sum() / kernel for at in range(row.size)])


def laprox_scores(layer, window=32, pool=7, pool_on="score", reduce="g1", value=True, projection=True):
    """[kv_heads, candidates]"""
    q, k, v, wo = layer
    group = q.shape[0] // k.shape[0]
    candidates = q.shape[1] - window
    rows = attention_of(q, k)[:, candidates:, :candidates]
    scores = []
    for kv_head in range(k.shape[0]):
        members = range(kv_head * group, (kv_head + 1) * group)
        x = v[kv_head, :candidates]
        columns = [np.sqrt((rows[h] ** 2).sum(0)) for h in members]
        norms = [np.linalg.norm(x @ wo[h] if projection else x, axis=1) if value else np.ones(candidates)
                 for h in members]
        mean_column = np.sqrt((rows[list(members)].mean(0) ** 2).sum(0))
        if pool_on == "columns":
            columns = [pooled(c, pool) for c in columns]
            mean_column = pooled(mean_column, pool)
        if reduce == "g1":
            score = np.mean([c * u for c, u in zip(columns, norms)], axis=0)
        elif reduce == "g2":
            score = mean_column * np.mean(norms, axis=0)
        elif reduce == "g2b":
            score = mean_column * np.linalg.norm(x @ sum(wo[h] for h in members), axis=1)
        else:
            score = np.array([np.linalg.norm(sum(np.outer(rows[h, :, i], x[i] @ wo[h]) for h in members))
                              for i in range(candidates)])
        scores.append(score if pool_on == "columns" else pooled(score, pool))
    return np.array(scores)


def best(pairs, count):
    """The `count` best of (score, place) pairs: higher score first, then lower place."""
    return [place for _, place in sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:count]]


def laprox_kept(all_scores, tokens, slots, window, scope="model", normalise=True):
    """Kept tokens of each layer and KV head."""
    layers, heads = len(all_scores), all_scores[0].shape[0]
    free = slots - window
    pools = {"model": [range(layers)], "layer": [[layer] for layer in range(layers)]}
    chosen = {}
    if scope == "head":
        for layer in range(layers):
            for head in range(heads):
                pairs = list(zip(all_scores[layer][head], range(tokens - window)))
                chosen[layer, head] = best(pairs, free)
    else:
        for pool in pools[scope]:
            pairs = []
            for layer in pool:
                share = all_scores[layer] / all_scores[layer].sum() if normalise else all_scores[layer]
                pairs += [(share[head, token], (layer, head, token))
                          for head in range(heads) for token in range(tokens - window)]
            for layer, head, token in best(pairs, free * heads * len(pool)):
                chosen.setdefault((layer, head), []).append(token)
    recent = list(range(tokens - window, tokens))
    return [[sorted(chosen.get((layer, head), [])) + recent for head in range(heads)] for layer in range(layers)]


def laprox_case(shape, seed, slots, **options):
    sizes = SIZES[shape]
    layers = [[x.astype(np.float64) for x in layer_input(sizes, seed, layer)] for layer in range(sizes[0])]
    ranking = {name: options[name] for name in ("scope", "normalise") if name in options}
    scoring = {name: value for name, value in options.items() if name not in ranking}
    scores = [laprox_scores(layer, **scoring) for layer in layers]
    text = ",".join(f"{name}={str(value).lower()}" for name, value in options.items())
    return {"method": f"laprox:{text}", "keep": str(slots), "sizes": sizes, "seed": seed, "scores": rounded(scores[0]),
            "kept": laprox_kept(scores, sizes[3], slots, options.get("window", 32), **ranking)}


def h2o_case(shape, seed, slots, recent=0.5, reduce="mean"):
    sizes = SIZES[shape]
    tokens = sizes[3]
    newest = math.floor(recent * slots)
    kept, first = [], None
    for layer in range(sizes[0]):
        q, k, _, _ = (x.astype(np.float64) for x in layer_input(sizes, seed, layer))
        sums = attention_of(q, k).sum(1).reshape(sizes[2], -1, tokens)
        group = {"mean": sums.mean(1), "max": sums.max(1), "sum": sums.sum(1)}[reduce][:, :tokens - newest]
        first = group if first is None else first
        kept.append([sorted(best(list(zip(row, range(row.size))), slots - newest))
                     + list(range(tokens - newest, tokens)) for row in group])
    return {"method": f"h2o:form=prefill_sum,recent={recent:g},reduce={reduce}", "keep": str(slots), "sizes": sizes,
            "seed": seed, "scores": rounded(first), "kept": kept}


def r_kv_scores(q, k, window, pool, weight, threshold):
    """[kv_heads, candidates] of the authors' code: group maximum before the softmax, newest similar key spared."""
    group, tokens, half = q.shape[0] // k.shape[0], k.shape[1], pool // 2
    scores = []
    for head, keys in enumerate(k):
        members = q[head * group:(head + 1) * group, tokens - window:]
        logits = np.max(members @ keys[:tokens - window].T, axis=0) / math.sqrt(k.shape[2])
        rows = np.exp(logits - logits.max(1, keepdims=True))
        mean = (rows / rows.sum(1, keepdims=True)).mean(0)
        importance = np.array([mean[max(0, at - half):at + half + 1].max() for at in range(mean.size)])
        unit = keys / (np.linalg.norm(keys, axis=1, keepdims=True) + 1e-8)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, 0)
        for row in cosine:
            similar = [at for at in range(tokens) if row[at] > threshold]
            row[max(similar) if similar else 0] = 0
        repeats = np.exp(cosine.mean(0))
        scores.append(weight * importance - (1 - weight) * (repeats / repeats.sum())[:tokens - window])
    return np.array(scores)


def r_kv_case(shape, seed, slots, **options):
    sizes = SIZES[shape]
    window, tokens = options["window"], sizes[3]
    kept, first = [], None
    for layer in range(sizes[0]):
        q, k, _, _ = (x.astype(np.float64) for x in layer_input(sizes, seed, layer))
        scores = r_kv_scores(q, k, window, options["pool"], options["lambda"], options["threshold"])
        first = scores if first is None else first
        kept.append([sorted(best(list(zip(row, range(row.size))), slots - window))
                     + list(range(tokens - window, tokens)) for row in scores])
    text = ",".join(f"{name}={value}" for name, value in options.items())
    return {"method": f"r_kv:{text}", "keep": str(slots), "sizes": sizes, "seed": seed, "scores": rounded(first),
            "kept": kept}


def merged(k, v, kept, weighted):
    """Keys and values of one head's kept tokens after every other token has joined its most similar one."""
    unit = k / np.linalg.norm(k, axis=1, keepdims=True)
    joins = {token: [] for token in kept}
    for token in range(len(k)):
        if token not in joins:
            similarity = [unit[token] @ unit[target] for target in kept]
            joins[kept[int(np.argmax(similarity))]].append((token, max(similarity)))
    keys, values = [], []
    for target in kept:
        for rows, out in ((k, keys), (v, values)):
            if weighted:
                weights = [max((s + 1) / 2, 1e-6) for _, s in joins[target]]
                total = rows[target] + sum(w * rows[t] for w, (t, _) in zip(weights, joins[target]))
                out.append(total / (1 + sum(weights)))
            else:
                out.append(np.mean([rows[target]] + [(rows[target] + rows[t]) / 2 for t, _ in joins[target]], axis=0))
    return keys, values


def merger_case(shape, seed, slots, merger):
    """K-norm keeps, the merger folds."""
    sizes = SIZES[shape]
    kept, keys, values = [], [], []
    for layer in range(sizes[0]):
        _, k, v, _ = (x.astype(np.float64) for x in layer_input(sizes, seed, layer))
        heads = [sorted(best([(-np.linalg.norm(row), t) for t, row in enumerate(head)], slots)) for head in k]
        rows = [merged(k[head], v[head], tokens, merger == "weighted") for head, tokens in enumerate(heads)]
        kept.append(heads)
        keys.append(rounded([row[0] for row in rows]))
        values.append(rounded([row[1] for row in rows]))
    return {"method": f"knorm | {merger}", "keep": str(slots), "sizes": sizes, "seed": seed, "kept": kept,
            "keys": keys, "values": values}


def main():
    cases = []
    for shape, seed in (("grouped", 400), ("seven", 500), ("single", 600)):
        for reduce in ("g1", "g2", "g2b", "gx"):
            cases.append(laprox_case(shape, seed, 17, window=8, reduce=reduce))
        for scope in ("model", "layer", "head"):
            cases.append(laprox_case(shape, seed, 14, window=6, pool=3, scope=scope))
        cases += [laprox_case(shape, seed, 14, window=6, normalise=False),
                  laprox_case(shape, seed, 14, window=6, pool_on="columns"),
                  laprox_case(shape, seed, 14, window=6, pool_on="columns", reduce="g2"),
                  laprox_case(shape, seed, 14, window=6, value=False),
                  laprox_case(shape, seed, 14, window=6, projection=False),
                  r_kv_case(shape, seed, 15, **{"window": 4, "pool": 3, "lambda": 0.07, "threshold": 0.5}),
                  r_kv_case(shape, seed, 15, **{"window": 6, "pool": 7, "lambda": 0.6, "threshold": 0.1}),
                  h2o_case(shape, seed, 11), h2o_case(shape, seed, 12, recent=0.25, reduce="max"),
                  h2o_case(shape, seed, 9, recent=0.0, reduce="sum"),
                  merger_case(shape, seed, 10, "pivot"), merger_case(shape, seed, 10, "weighted")]
    header = {"made_by": "tests/golden/float64_methods.py", "numpy": np.__version__, "score_tolerance": [1e-4, 1e-6],
              "value_tolerance": 1e-5}
    write(pathlib.Path(__file__).with_suffix(".json"), header, cases)


if __name__ == "__main__":
    main()
