"""Greedy selection with value-space redundancy, written out in float64: writes diversity_float64.json beside itself.

usage: python diversity_float64.py      (numpy only; shares no code with kvscope)

The base score is minus the key's norm. Each head's candidates are normalised, then picked one by one: the highest score
minus lambda times the similarity to what was picked before.
"""

import pathlib

import numpy as np
from golden_input import layer_input, write

SIZES = {"grouped": (2, 4, 2, 60, 8, 16), "single": (1, 3, 3, 45, 4, 8)}
WINDOW = 6


def normalised(scores, how):
    if how == "zscore":
        return (scores - scores.mean()) / max(scores.std(), 1e-6)
    if how == "minmax":
        return (scores - scores.min()) / max(scores.max() - scores.min(), 1e-6)
    return scores.copy()


def picks(scores, rows, count, options, protected):
    """Picked candidates in order, and how far each pick was ahead of the next best."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    if options["clip"] == "zero":
        cosine = np.maximum(cosine, 0)
    base = normalised(scores, options["base_norm"])
    size = len(base)
    start = list(protected) if options["init_set"] == "protected" else []
    chosen, order, margins = list(start), [], []
    for _ in range(min(count, size)):
        objective = np.full(size, -np.inf)
        for candidate in range(size):
            if candidate in order:
                continue
            similar = [cosine[candidate, member] for member in chosen]
            if options["objective"] == "fl":
                # what the candidate adds to sum_j max over the set of max(C, 0), j over all candidates
                covered = np.zeros(size) if not chosen else np.maximum(cosine[:size, chosen].max(1), 0)
                gain = np.maximum(np.maximum(cosine[:size, candidate], 0) - covered, 0).sum()
                objective[candidate] = base[candidate] + options["lambda"] * gain
            else:
                redundancy = 0.0 if not similar else {"max": max, "mean": np.mean, "sum": np.sum}[options["agg"]](similar)
                objective[candidate] = base[candidate] - options["lambda"] * redundancy
        best = int(np.argmax(objective))
        rest = np.delete(objective, best)
        margins.append(float(objective[best] - rest.max()) if np.isfinite(rest.max()) else 1e9)
        order.append(best)
        chosen.append(best)
    return order, margins


def case(shape, seed, slots, **given):
    options = {"lambda": 0.5, "agg": "max", "clip": "none", "base_norm": "zscore", "init_set": "empty", "space": "v",
               "objective": "mmr", **given}
    sizes = SIZES[shape]
    orders = []
    for layer in range(sizes[0]):
        _, k, v, _ = (x.astype(np.float64) for x in layer_input(sizes, seed, layer))
        rows = v if options["space"] == "v" else k
        heads = []
        for head in range(sizes[2]):
            order, margins = picks(-np.linalg.norm(k[head], axis=1), rows[head], slots, options, [])
            # Beyond a pick whose margin float32 cannot see, orders may differ.
            sure = next((at for at, margin in enumerate(margins) if margin < 1e-4), len(margins))
            heads.append({"order": order, "sure": sure})
        orders.append(heads)
    text = ",".join(f"{name}={value}" for name, value in given.items())
    return {"method": f"knorm | diversity:{text}", "keep": str(slots), "sizes": sizes, "seed": seed, "orders": orders}


def protected_case(shape, seed, slots, **given):
    """Base: attention of the newest query, whose own token is protected (TOVA)."""
    options = {"lambda": 0.5, "agg": "max", "clip": "none", "base_norm": "zscore", "init_set": "empty",
               "objective": "mmr", **given}
    sizes = SIZES[shape]
    group = sizes[1] // sizes[2]
    orders = []
    for layer in range(sizes[0]):
        q, k, v, _ = (x.astype(np.float64) for x in layer_input(sizes, seed, layer))
        rows = []
        for head in range(sizes[1]):
            logits = k[head // group] @ q[head, -1] / np.sqrt(sizes[4])
            weights = np.exp(logits - logits.max())
            rows.append(weights / weights.sum())
        score = np.mean(rows, axis=0)[:-1]
        heads = []
        for head in range(sizes[2]):
            order, margins = picks(score, v[head], slots - 1, options, [sizes[3] - 1])
            sure = next((at for at, margin in enumerate(margins) if margin < 1e-4), len(margins))
            heads.append({"order": order, "sure": sure})
        orders.append(heads)
    text = ",".join(f"{name}={value}" for name, value in given.items())
    return {"method": f"tova | diversity:{text}", "keep": str(slots), "sizes": sizes, "seed": seed, "orders": orders}


def main():
    cases = []
    for shape, seed in (("grouped", 700), ("single", 800)):
        for given in ({"lambda": 0.5}, {"lambda": 0.25}, {"lambda": 1}, {"lambda": 30}, {"agg": "mean"}, {"agg": "sum"},
                      {"clip": "zero"}, {"agg": "sum", "clip": "zero"}, {"base_norm": "minmax"},
                      {"base_norm": "none", "unscaled": "true"}, {"space": "k_post_rope"}, {"objective": "fl"},
                      {"objective": "fl", "lambda": 2}):
            cases.append(case(shape, seed, 20, **given))
        for given in ({}, {"init_set": "protected"}, {"init_set": "protected", "agg": "mean"},
                      {"init_set": "protected", "agg": "sum"}, {"init_set": "protected", "objective": "fl"}):
            cases.append(protected_case(shape, seed, 20, **{"lambda": 0.75, **given}))
    header = {"made_by": "tests/golden/diversity_float64.py", "numpy": np.__version__, "margin": 1e-4}
    write(pathlib.Path(__file__).with_suffix(".json"), header, cases)


if __name__ == "__main__":
    main()
