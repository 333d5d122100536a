"""LaProx, R-KV, H2O, CAOTE, Scissorhands, AhaKV, CAKE, and mergers pivot, weighted, d2o, in float64 from their rules.

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


def d2o_rows(heads, k, v, gate="slot", weights="code"):
    """Keys and values of kept tokens. The e-th evicted token of all heads passes as one (slot), or each alone."""
    best_kept = []
    for head, kept in enumerate(heads):
        unit = k[head] / np.linalg.norm(k[head], axis=1, keepdims=True)
        rows = []
        for token in sorted(set(range(len(unit))) - set(kept)):
            similarity = [unit[token] @ unit[target] for target in kept]
            rows.append((token, kept[int(np.argmax(similarity))], max(similarity)))
        best_kept.append(rows)
    similarities = np.array([[row[2] for row in rows] for rows in best_kept])
    passed = similarities >= similarities.mean()
    if gate == "slot":
        passed[:] = similarities.mean(0) >= similarities.mean()
    keys, values = [], []
    for head, kept in enumerate(heads):
        for rows, out in ((k[head], keys), (v[head], values)):
            merged_rows = []
            for target in kept:
                joined = [(s, t) for (t, to, s), yes in zip(best_kept[head], passed[head]) if yes and to == target]
                if weights == "code":
                    merged_rows.append(np.mean([rows[target]] + [s * rows[t] for s, t in joined], axis=0))
                else:
                    parts = [math.e] + [math.exp(s) for s, _ in joined]
                    all_rows = [rows[target]] + [rows[t] for _, t in joined]
                    merged_rows.append(sum(p * r for p, r in zip(parts, all_rows)) / sum(parts))
            out.append(merged_rows)
    return keys, values


def d2o_case(shape, seed, slots, **options):
    sizes = SIZES[shape]
    kept, keys, values = [], [], []
    for layer in range(sizes[0]):
        _, k, v, _ = (x.astype(np.float64) for x in layer_input(sizes, seed, layer))
        heads = [sorted(best([(-np.linalg.norm(row), t) for t, row in enumerate(head)], slots)) for head in k]
        key_rows, value_rows = d2o_rows(heads, k, v, **options)
        kept.append(heads)
        keys.append(rounded(key_rows))
        values.append(rounded(value_rows))
    text = ",".join(f"{name}={value}" for name, value in options.items())
    return {"method": f"knorm | d2o:{text}", "keep": str(slots), "sizes": sizes, "seed": seed, "kept": kept,
            "keys": keys, "values": values}


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


def by_group(rows, kv_heads, rule="mean"):
    grouped = np.array(rows).reshape(kv_heads, -1, len(rows[0]))
    return {"mean": grouped.mean(1), "max": grouped.max(1), "sum": grouped.sum(1)}[rule]


def caote_scores(q, k, v, of="last", output="exact", reduce="mean"):
    """How far each query head's output moves if one token goes, by leaving it out and dividing anew."""
    group = q.shape[0] // k.shape[0]
    moved = []
    for head, rows in enumerate(attention_of(q, k)):
        weight = rows[-1] if of == "last" else rows.sum(0) / rows.sum()
        values = v[head // group]
        whole = weight @ values
        if output == "mean":
            centre = values.mean(0)
            moved.append(weight / (1 - weight) * np.linalg.norm(values - centre, axis=1))
            continue
        row = []
        for token in range(len(weight)):
            left = np.delete(weight, token)
            row.append(np.linalg.norm(whole - left @ np.delete(values, token, 0) / left.sum()))
        moved.append(row)
    return by_group(moved, k.shape[0], reduce)


def scissorhands_scores(q, k, _, window=400, recent=10, share="row", reduce="mean"):
    tokens = k.shape[1]
    counts = []
    for rows in attention_of(q, k):
        count = np.zeros(tokens)
        for query in range(max(0, tokens - window), tokens):
            for token in range(query + 1):
                count[token] += rows[query, token] < 1 / (query + 1 if share == "row" else tokens)
        counts.append(-count)
    return by_group(counts, k.shape[0], reduce)[:, :tokens - recent]


def ahakv_scores(q, k, v, window=32, pool=5, recent=0, reduce="mean", slots=0):
    group, tokens, dim = q.shape[0] // k.shape[0], k.shape[1], k.shape[2]
    scale = math.sqrt(2 * math.log(tokens / slots) / dim)
    sums = []
    for head in range(q.shape[0]):
        total = np.zeros(tokens)
        for query in range(max(0, tokens - window), tokens):
            row = np.exp(scale * (k[head // group, :query + 1] @ q[head, query]))
            total[:query + 1] += row / row.sum()
        sums.append(total)
    energy = np.array([pooled((values ** 2).sum(1), pool) for values in v])
    prior = energy / energy.max(1, keepdims=True)
    return (prior * by_group(sums, k.shape[0], reduce))[:, :tokens - recent]


def head_case(method, scores_of, shape, seed, slots, ruled=0, **options):
    """The best `slots` - `ruled` of each head, and the newest `ruled`."""
    sizes = SIZES[shape]
    tokens, kept, first = sizes[3], [], None
    extra = {"slots": slots} if method == "ahakv" else {}
    for layer in range(sizes[0]):
        q, k, v, _ = (x.astype(np.float64) for x in layer_input(sizes, seed, layer))
        scores = scores_of(q, k, v, **options, **extra)
        first = scores if first is None else first
        kept.append([sorted(best(list(zip(row, range(tokens - ruled))), slots - ruled))
                     + list(range(tokens - ruled, tokens)) for row in scores])
    text = ",".join(f"{name}={value}" for name, value in options.items())
    return {"method": f"{method}:{text}".rstrip(":"), "keep": str(slots), "sizes": sizes, "seed": seed,
            "scores": rounded(first), "kept": kept}


def cake_layer(q, k, window, gamma, pool):
    """[kv_heads, candidates], and the layer's dispersion and shift."""
    rows = attention_of(q, k)[:, -window:, :-window]
    variance = rows.var(1, ddof=1)
    heads = [pooled(mean + gamma * change, pool) for mean, change in zip(rows.mean(1), variance)]
    return by_group(heads, k.shape[0]), -(rows * np.log(rows + 1e-10)).sum(), variance.sum()


def cake_slots(weights, total, most):
    """The authors' adjust_budgets: truncated shares, the excess above `most` spread equally, then the sum corrected."""
    slots = np.array([int(w / sum(weights) * total) for w in weights])
    excess = int(np.maximum(slots - most, 0).sum())
    slots = np.minimum(slots, most)
    for amount in (excess, None):
        amount = total - int(slots.sum()) if amount is None else amount
        places = np.flatnonzero(slots < most if amount > 0 else slots > 1)
        if amount and len(places):
            slots[places] += int(np.sign(amount)) * (abs(amount) // len(places))
            slots[places[:abs(amount) % len(places)]] += int(np.sign(amount))
    return slots


def cake_case(shape, seed, slots, window=4, gamma=200, pool=5, tau1=1.0, tau2=1.0):
    sizes = SIZES[shape]
    tokens = sizes[3]
    layers = []
    for layer in range(sizes[0]):
        q, k, _, _ = (x.astype(np.float64) for x in layer_input(sizes, seed, layer))
        layers.append(cake_layer(q, k, window, gamma, pool))
    weights = [dispersion ** (1 / tau1) * shift ** (1 / tau2) for _, dispersion, shift in layers]
    counts = np.clip(cake_slots(weights, (slots - window) * sizes[0], tokens - window), 0, tokens - window)
    kept = [[sorted(best(list(zip(row, range(row.size))), count)) + list(range(tokens - window, tokens))
             for row in scores] for (scores, _, _), count in zip(layers, counts)]
    return {"method": f"cake:window={window},gamma={gamma},pool={pool},tau1={tau1},tau2={tau2}", "keep": str(slots),
            "sizes": sizes, "seed": seed, "scores": rounded(layers[0][0]), "kept": kept}


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
                  head_case("caote", caote_scores, shape, seed, 13),
                  head_case("caote", caote_scores, shape, seed, 13, of="sum", reduce="max"),
                  head_case("caote", caote_scores, shape, seed, 9, output="mean"),
                  head_case("scissorhands", scissorhands_scores, shape, seed, 19, ruled=10),
                  head_case("scissorhands", scissorhands_scores, shape, seed, 15, ruled=3, window=12, recent=3,
                            share="cache", reduce="sum"),
                  head_case("ahakv", ahakv_scores, shape, seed, 13),
                  head_case("ahakv", ahakv_scores, shape, seed, 8, ruled=2, window=9, pool=3, recent=2, reduce="max"),
                  cake_case(shape, seed, 12), cake_case(shape, seed, 16, gamma=50, pool=3, tau1=1.6, tau2=0.4),
                  cake_case(shape, seed, 30, window=6, tau1=0.2, tau2=0.05),
                  d2o_case(shape, seed, 10, gate="slot"), d2o_case(shape, seed, 10, gate="token"),
                  d2o_case(shape, seed, 10, weights="paper"),
                  merger_case(shape, seed, 10, "pivot"), merger_case(shape, seed, 10, "weighted")]
    header = {"made_by": "tests/golden/float64_methods.py", "numpy": np.__version__, "score_tolerance": [1e-4, 1e-6],
              "value_tolerance": 1e-5}
    write(pathlib.Path(__file__).with_suffix(".json"), header, cases)


if __name__ == "__main__":
    main()
