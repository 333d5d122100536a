"""What kvpress keeps and scores on generated inputs: writes kvpress_methods.json beside itself.

usage: python kvpress_methods.py      (torch 2.11, transformers < 5.3, kvpress 0.5.5)

Hidden states are the queries themselves: the query projection is the identity and the rotation is none, so the inputs
are Q, K and V as they lie in a cache. Kept tokens are found by bit-exact key rows, since kvpress orders by score.
"""

import importlib.metadata
import math
import pathlib
import types

import numpy as np
import torch
from golden_input import layer_input, rounded, write
from kvpress import (AdaKVPress, CriticalAdaKVPress, CriticalKVPress, CURPress, KeyDiffPress, KnormPress, LagKVPress,
                     MergingPress, ObservedAttentionPress, PyramidKVPress, SnapKVPress, StreamingLLMPress, TOVAPress)

SIZES = {"grouped": (2, 4, 2, 48, 8, 16), "three": (1, 6, 2, 33, 4, 8), "deep": (4, 2, 2, 64, 4, 8)}


def fake_module(sizes, layer, weights):
    """An attention module as far as presses look at one."""
    layers, query_heads, kv_heads, _, head_dim, hidden_dim = sizes
    width = query_heads * head_dim
    module = torch.nn.Module()
    module.q_proj = torch.nn.Identity()
    module.o_proj = types.SimpleNamespace(weight=weights.reshape(width, hidden_dim).T)
    module.head_dim = head_dim
    module.layer_idx = layer
    module.num_key_value_groups = query_heads // kv_heads
    module.config = types.SimpleNamespace(
        num_attention_heads=query_heads, num_key_value_heads=kv_heads, head_dim=head_dim, hidden_size=hidden_dim,
        num_hidden_layers=layers, _attn_implementation="sdpa")
    return module


def run_layer(sizes, seed, layer, press, eager):
    """Scores before padding a press adds, kept tokens of each head, and the values it leaves, in token order."""
    _, query_heads, kv_heads, tokens, head_dim, _ = sizes
    q, k, v, w = (torch.from_numpy(x) for x in layer_input(sizes, seed, layer))
    module = fake_module(sizes, layer, w)
    hidden = q.transpose(0, 1).reshape(1, tokens, -1)
    rotation = (torch.ones(1, tokens, head_dim), torch.zeros(1, tokens, head_dim))
    keys, values = k[None], v[None]
    attention = None
    if eager:
        logits = q @ k.repeat_interleave(query_heads // kv_heads, 0).transpose(1, 2) / math.sqrt(head_dim)
        hidden_keys = torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), 1)
        attention = torch.softmax(logits.masked_fill(hidden_keys, float("-inf")), -1)[None]
    kwargs = {"position_embeddings": rotation}
    scorer = getattr(press, "press", press)
    scores = scorer.score(module, hidden, keys, values, attention, kwargs)[0]
    module.masked_key_indices = None
    out_keys, out_values = press.compress(module, hidden, keys, values, attention, kwargs)
    if module.masked_key_indices is not None:
        _, heads, places = module.masked_key_indices
        lost = set(zip(heads.tolist(), places.tolist()))
        kept = [[t for t in range(tokens) if (head, t) not in lost] for head in range(kv_heads)]
        return scores, kept, None
    kept, left = [], []
    for head in range(kv_heads):
        place = {k[head, t].numpy().tobytes(): t for t in range(tokens)}
        order = [place[row.numpy().tobytes()] for row in out_keys[0, head]]
        kept.append(sorted(order))
        left.append([out_values[0, head, order.index(t)].numpy() for t in kept[-1]])
    return scores, kept, np.array(left)


def case(shape, seed, method, keep, press, eager=False, values=False, scores=True, note=""):
    sizes = SIZES[shape]
    press.compression_ratio = 1 - keep if isinstance(keep, float) else 1 - (keep + 0.5) / sizes[3]
    layers = [run_layer(sizes, seed, layer, press, eager) for layer in range(sizes[0])]
    result = {"method": method, "keep": str(keep), "sizes": sizes, "seed": seed,
              "kept": [kept for _, kept, _ in layers]}
    if scores:
        result["scores"] = rounded(layers[0][0])
    if values:
        result["values"] = [rounded(left) for _, _, left in layers]
    if note:
        result["note"] = note
    return result


def main():
    cases = []
    for shape, seed, gate in (("grouped", 100, 0.6), ("three", 200, 0.9)):
        cases += [
            case(shape, seed, "streaming_llm", 13, StreamingLLMPress(n_sink=4), scores=False),
            case(shape, seed, "streaming_llm:sinks=7", 20, StreamingLLMPress(n_sink=7), scores=False),
            case(shape, seed, "knorm", 13, KnormPress()),
            case(shape, seed, "keydiff", 13, KeyDiffPress()),
            case(shape, seed, "observed_attention", 13, ObservedAttentionPress(), eager=True),
            case(shape, seed, "tova", 13, TOVAPress()),
            case(shape, seed, "snapkv:window=8", 13, SnapKVPress(window_size=8, kernel_size=5)),
            case(shape, seed, "snapkv:window=5,pool=7", 20, SnapKVPress(window_size=5, kernel_size=7)),
            case(shape, seed, "adakv:window=8", 13, AdaKVPress(SnapKVPress(window_size=8, kernel_size=5))),
            case(shape, seed, "knorm | adakv:floor=0.5", 13, AdaKVPress(KnormPress(), alpha_safeguard=0.5)),
            case(shape, seed, "knorm | adakv:floor=0.01", 13, AdaKVPress(KnormPress(), alpha_safeguard=0.01)),
            case(shape, seed, "keydiff | adakv:floor=0", 13, AdaKVPress(KeyDiffPress(), alpha_safeguard=0.0)),
            case(shape, seed, "criticalkv:window=8", 13, CriticalKVPress(SnapKVPress(window_size=8, kernel_size=5))),
            case(shape, seed, "criticalkv:window=5,first=0.25", 20,
                 CriticalKVPress(SnapKVPress(window_size=5, kernel_size=5), first_stage_ratio=0.25)),
            case(shape, seed, "observed_attention | critical:first=0.3,epsilon=0.01", 13,
                 CriticalKVPress(ObservedAttentionPress(), epsilon=0.01, first_stage_ratio=0.3), eager=True),
            case(shape, seed, "criticaladakv:window=8", 13,
                 CriticalAdaKVPress(SnapKVPress(window_size=8, kernel_size=5))),
            case(shape, seed, "criticaladakv:window=4,floor=0.6,first=0.1", 20,
                 CriticalAdaKVPress(SnapKVPress(window_size=4, kernel_size=5), alpha_safeguard=0.6,
                                    first_stage_ratio=0.1)),
            case(shape, seed, "lagkv:lag=6", 20, LagKVPress(n_sink=4, lag_size=6)),
            case(shape, seed, "lagkv:sinks=2,lag=5,across=scores", 13,
                 LagKVPress(n_sink=2, lag_size=5, cross_scoring=True)),
            case(shape, seed, "lagkv:lag=128", 13, LagKVPress(n_sink=4, lag_size=128)),
            case(shape, seed, "cur", 13, CURPress()),
            case(shape, seed, "cur:sinks=2,of=average,window=7", 13,
                 CURPress(num_sinks=2, leverage_type="kv_avg", local_window_size=7)),
            case(shape, seed, "cur:of=key", 13, CURPress(leverage_type="key")),
            case(shape, seed, "cur:of=value,local=false", 20,
                 CURPress(leverage_type="value", use_local_approximation=False)),
            case(shape, seed, "knorm | nearest_key", 13, MergingPress(KnormPress()), values=True),
            case(shape, seed, "snapkv:window=8 | nearest_key:gate=0.3,fraction=0.75", 13,
                 MergingPress(SnapKVPress(window_size=8, kernel_size=5), similarity_threshold=0.3,
                              merge_fraction=0.75), values=True),
            case(shape, seed, f"knorm | nearest_key:gate={gate},fraction=0.9", 13,
                 MergingPress(KnormPress(), similarity_threshold=gate, merge_fraction=0.9), values=True, scores=False,
                 note="quantile"),
        ]
    cases += [
        case("deep", 300, "pyramidkv:window=4,beta=4", 0.5, PyramidKVPress(window_size=4, beta=4)),
        case("deep", 300, "pyramidkv:window=4", 0.25, PyramidKVPress(window_size=4)),
        case("deep", 300, "pyramidkv:window=4,beta=2", 0.75, PyramidKVPress(window_size=4, beta=2)),
    ]
    header = {"made_by": "tests/golden/kvpress_methods.py", "kvpress": importlib.metadata.version("kvpress"),
              "torch": torch.__version__, "score_tolerance": [1e-4, 1e-6], "value_tolerance": 1e-5}
    write(pathlib.Path(__file__).with_suffix(".json"), header, cases)


if __name__ == "__main__":
    main()
