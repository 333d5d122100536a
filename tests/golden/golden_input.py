"""The inputs that golden scripts share with the C++ tests: the generator of specs/baselines.md appendix G.

Layer l of a run draws queries (x3), keys, values and output weights (x0.5) from seeds seed + 10 l + 1, 2, 3, 4;
queries and keys count as rotated already.
"""

import json

import numpy as np


def generated(seed, shape, scale=1.0):
    """float32 numbers uniform in [-1, 1) times `scale`, row-major."""
    state = seed
    numbers = np.empty(int(np.prod(shape)))
    for at in range(numbers.size):
        state = (1664525 * state + 1013904223) % 2**32
        numbers[at] = (state / 2**32 * 2 - 1) * scale
    return numbers.astype(np.float32).reshape(shape)


def layer_input(sizes, seed, layer):
    """Q [query_heads, tokens, head_dim], K and V [kv_heads, ...], W_O [query_heads, head_dim, hidden_dim]."""
    layers, query_heads, kv_heads, tokens, head_dim, hidden_dim = sizes
    first = seed + 10 * layer
    return (generated(first + 1, (query_heads, tokens, head_dim), 3.0),
            generated(first + 2, (kv_heads, tokens, head_dim)),
            generated(first + 3, (kv_heads, tokens, head_dim)),
            generated(first + 4, (query_heads, head_dim, hidden_dim), 0.5))


def rounded(array):
    """Nested lists with seven significant digits."""
    array = np.asarray(array, dtype=np.float64)
    if array.ndim == 0:
        return float(f"{array:.7g}")
    return [rounded(row) for row in array]


def write(path, header, cases):
    """One case a line, so that a change shows as one."""
    with open(path, "w", encoding="utf-8") as out:
        out.write("{\n")
        for name, value in header.items():
            out.write(f"{json.dumps(name)}: {json.dumps(value)},\n")
        out.write('"cases": [\n')
        out.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases))
        out.write("\n]}\n")
