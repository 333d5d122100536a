"""Writes triattention_golden.json: TriAttention's scores and keep sets, in float64, from the formulas of the paper and its
reference path (arXiv:2604.04921), written out: keys are rotated back, offsets are looped over, unions are unions. Shares no
code with kvscope and needs numpy alone.

    python3 triattention_golden.py OUT.json [CAPTURE.h5 CALIBRATION.h5]

The two files add a case from a real run: what `kvscope capture --profile qkv` and `kvscope calibrate` wrote (needs h5py).
The version is in the file. Compared at relative 2e-5 of the largest score (float32 against float64); keep sets must agree but
where two scores at the cut lie that close.
"""
import json
import sys

import numpy as np


class Stream:
    """x <- 1664525 x + 1013904223 mod 2^32; numbers in [-1, 1)."""

    def __init__(self, seed):
        self.state = seed

    def draw(self, *shape):
        out = []
        for _ in range(int(np.prod(shape))):
            self.state = (1664525 * self.state + 1013904223) % 2**32
            out.append(self.state / 2**31 - 1.0)
        return np.float32(np.array(out)).astype(np.float64).reshape(shape)


def unrotate(key, position, omega, sigma):
    """k before the rotation, of one cached key at one position."""
    half = len(omega)
    y1, y2 = key[:half] / sigma, key[half:] / sigma
    cos, sin = np.cos(omega * position), np.sin(omega * position)
    return (y1 * cos + y2 * sin) + 1j * (y2 * cos - y1 * sin)


def terms(case, layer, head, slot, maximum, resultant):
    """S_trig (mean or max over the offsets) and S_norm of one key for one query head."""
    omega, sigma = np.array(case["omega"]), case["sigma"]
    group = case["query_heads"] // case["kv_heads"]
    centre = case["real"][layer][head] + 1j * case["imag"][layer][head]
    length = case["abs"][layer][head]
    k = unrotate(case["keys"][layer][head // group][slot], case["position"][slot], omega, sigma)
    amplitude = np.abs(centre) * np.abs(k)
    phase = np.angle(centre * np.conj(k))
    spread = length - np.abs(centre) if resultant else length
    series = []
    for power in range(case["offsets"]):
        distance = case["next"] - case["position"][slot] + 2**power
        series.append(np.sum(sigma**2 * amplitude * np.cos(omega * distance + phase)))
    trigonometric = max(series) if maximum else sum(series) / len(series)
    return trigonometric, np.sum(sigma**2 * spread * np.abs(k))


def z_scores(row, sample):
    if sample:
        deviation = np.std(row, ddof=1)
        return (row - np.mean(row)) / (1.0 if deviation < 1e-8 else deviation)
    return (row - np.mean(row)) / max(np.std(row), 1e-6)


def best(row, k):
    return sorted(sorted(range(len(row)), key=lambda i: (-row[i], i))[:k])


def union(rows, k):
    """Every row marks its k best; of the union, the k largest by the maximum over rows."""
    marked = set()
    for row in rows:
        marked |= set(best(row, k))
    top = np.max(rows, axis=0)
    order = sorted(marked, key=lambda i: (-top[i], i))
    rest = sorted(set(range(len(top))) - marked, key=lambda i: (-top[i], i))
    return sorted((order + rest)[:k])


def decide(case, raw, mode, group_mean, sample, k):
    """Scores [layers, kv_heads, candidates] and kept candidates [layers][kv_heads]."""
    layers, heads, kv_heads = case["layers"], case["query_heads"], case["kv_heads"]
    z = np.array([[z_scores(raw[l][h], sample) for h in range(heads)] for l in range(layers)])
    grouped = z.reshape(layers, kv_heads, heads // kv_heads, -1)
    grouped = grouped.mean(axis=2) if group_mean and mode != "union" else grouped.max(axis=2)
    if mode == "union":
        rows = z.reshape(layers * heads, -1)
        kept = union(rows, k)
        scores = np.broadcast_to(rows.max(axis=0), grouped.shape)
        return scores, [[kept] * kv_heads] * layers
    if mode == "per_head":
        grouped = np.broadcast_to(grouped.mean(axis=0), grouped.shape)
    return grouped, [[best(grouped[l][g], k) for g in range(kv_heads)] for l in range(layers)]


def rounded(values, digits=9):
    return [float("%.*g" % (digits, v)) for v in np.asarray(values).reshape(-1)]


def answers(case):
    """Every combination of options that changes a number, on one case."""
    out = []
    protected = case["protected"]
    candidates = [i for i in range(len(case["position"])) if i not in protected]
    k = case["budget"] - len(protected)
    for maximum, resultant in ((False, True), (True, True), (False, False)):
        pair = np.array([[[terms(case, l, h, i, maximum, resultant) for i in candidates]
                          for h in range(case["query_heads"])] for l in range(case["layers"])])
        trigonometric, norm = pair[..., 0], pair[..., 1]
        answer = {"over_offsets": "max" if maximum else "mean", "resultant": resultant,
                  "trig": rounded(trigonometric, 8), "norm": rounded(norm, 8), "settled": []}
        for mode in ("per_head", "per_layer_perhead", "union"):
            for group_mean, sample in ((False, False), (True, False), (False, True)):
                scores, kept = decide(case, trigonometric + norm, mode, group_mean, sample, k)
                answer["settled"].append({
                    "mode": mode, "group": "mean" if group_mean else "max",
                    "deviation": "sample" if sample else "population", "scores": rounded(scores, 8),
                    "kept": [[[candidates[i] for i in head] for head in layer] for layer in kept]})
        out.append(answer)
    return out


def finish(case):
    answer = answers(case)
    for name in ("real", "imag", "abs", "keys"):
        case[name] = rounded(case[name])
    case["answers"] = answer
    return case


def random_case():
    stream = Stream(20260425)
    layers, heads, kv_heads, slots, half = 2, 4, 2, 22, 4
    real, imag = stream.draw(layers, heads, half), stream.draw(layers, heads, half)
    length = np.float32(np.hypot(real, imag) + np.abs(stream.draw(layers, heads, half))).astype(float)
    position = sorted(set(range(0, 70, 3)))[:slots]
    return {"name": "random", "layers": layers, "query_heads": heads, "kv_heads": kv_heads,
            "omega": [10000.0 ** (-2 * f / (2 * half)) for f in range(half)], "sigma": 1.25, "offsets": 17,
            "real": real, "imag": imag, "abs": length, "position": position, "next": position[-1] + 1,
            "protected": [0, 1, 2, slots - 1], "budget": 11,
            "keys": stream.draw(layers, kv_heads, slots, 2 * half)}


def real_case(capture, calibration):
    import h5py
    tokens, layers = 12, [3, 17]
    with h5py.File(capture) as c, h5py.File(calibration) as q:
        heads, kv_heads = int(c.attrs["query_heads"]), int(c.attrs["kv_heads"])
        half = int(c.attrs["head_dim"]) // 2
        omega = np.asarray(c.attrs["rope_inverse_frequency"], float)
        pick = lambda name: q["queries/" + name][layers].astype(np.float64)
        keys = np.array([c["layers/%03d/keys" % l][:, :tokens] for l in layers]).astype(np.float64)
        assert omega.shape == (half,) and keys.shape[1] == kv_heads
        return {"name": "smollm2", "layers": len(layers), "query_heads": heads, "kv_heads": kv_heads,
                "omega": [float(w) for w in omega], "sigma": 1.0, "offsets": 17, "real": pick("mean_real"),
                "imag": pick("mean_imaginary"), "abs": pick("mean_abs"), "position": list(range(tokens)),
                "next": tokens, "protected": [0], "budget": 5, "keys": keys}


def main():
    cases = [random_case()]
    if len(sys.argv) > 3:
        cases.append(real_case(sys.argv[2], sys.argv[3]))
    golden = {"made_with": "numpy " + np.__version__, "tolerance": 2e-5, "cases": [finish(c) for c in cases]}
    with open(sys.argv[1], "w") as out:
        json.dump(golden, out, separators=(",", ":"))
        out.write("\n")


main()
