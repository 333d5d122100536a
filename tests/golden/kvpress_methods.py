"""What kvpress keeps and scores on generated inputs: writes kvpress_methods.json beside itself.

usage: python kvpress_methods.py      (torch 2.11, transformers < 5.3, kvpress 0.5.5)

Hidden states are the queries themselves, then the keys: the projections take their part, and the rotation is none, so
the inputs are Q, K and V as they lie in a cache. In `rotated` cases they are turned back first, in float64, and
presses turn them as the tests' model does (base 10000); keys before their rotation are then those of
tests/methods/fake_run.cpp, the cached ones with their channels reversed. Kept tokens are found by bit-exact key rows,
since kvpress orders by score.
Sketches are drawn as methods/scorers/draws.h draws them, not by torch.
"""

import importlib.metadata
import math
import pathlib
import types
from unittest import mock

import numpy as np
import torch
from golden_input import layer_input, rounded, write
from kvpress import (AdaKVPress, BlockPress, CAMPress, CapPress, ChunkKVPress, CompactorPress, CriticalAdaKVPress,
                     CriticalKVPress, CURPress, ExpectedAttentionPress, FinchPress, KeyDiffPress, KnormPress,
                     LagKVPress, LeverageScorePress, MergingPress, NonCausalAttnPress, ObservedAttentionPress,
                     PyramidKVPress, SimLayerKVPress, SnapKVPress, StreamingLLMPress, TOVAPress)

SIZES = {"grouped": (2, 4, 2, 48, 8, 16), "three": (1, 6, 2, 33, 4, 8), "deep": (4, 2, 2, 64, 4, 8)}


MASK = 2**64 - 1


def mix(word):
    """splitmix64's finalizer."""
    word = (word + 0x9E3779B97F4A7C15) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def normal_draw(key):
    uniform = [(mix(k) >> 40) * 2.0**-24 for k in (key, ~key & MASK)]
    return math.sqrt(-2 * math.log(1 - uniform[0])) * math.cos(2 * math.pi * uniform[1])


def sketch_of(seed, layer):
    """Stands for torch.randn: one draw [head_dim, columns] for every KV head."""
    def draw(batch, heads, head_dim, columns, **_):
        key = mix(mix(seed) ^ layer)
        one = [normal_draw(key ^ mix(at)) for at in range(head_dim * columns)]
        return torch.tensor(one, dtype=torch.float32).view(1, 1, head_dim, columns).expand(batch, heads, -1, -1)
    return draw


def rotation_at(positions, head_dim, dtype=torch.float32):
    """cos and sin [1, positions, head_dim]."""
    frequency = (10000.0 ** (-torch.arange(head_dim // 2, dtype=torch.float64) * 2 / head_dim)).to(dtype)
    angle = positions.to(dtype)[:, None] * frequency
    angle = torch.cat([angle, angle], -1)[None]
    return angle.cos(), angle.sin()


def turned_back(rows):
    cos, sin = rotation_at(torch.arange(rows.shape[1]), rows.shape[2], torch.float64)
    a, b = rows.double().chunk(2, -1)
    return (rows.double() * cos - torch.cat([-b, a], -1) * sin).float()


class Part(torch.nn.Module):
    """A projection that takes channels [first, first + count)."""

    def __init__(self, first, count):
        super().__init__()
        self.first, self.count = first, count

    def forward(self, hidden):
        return hidden[..., self.first:self.first + self.count]


def fake_module(sizes, layer, weights):
    """An attention module as far as presses look at one."""
    layers, query_heads, kv_heads, _, head_dim, hidden_dim = sizes
    width = query_heads * head_dim
    module = torch.nn.Module()
    module.q_proj = Part(0, width)
    module.k_proj = Part(width, kv_heads * head_dim)
    module.rotary_emb = lambda _, positions: rotation_at(positions[0], head_dim)
    module.o_proj = types.SimpleNamespace(weight=weights.reshape(width, hidden_dim).T)
    module.head_dim = head_dim
    module.layer_idx = layer
    module.num_key_value_groups = query_heads // kv_heads
    module.config = types.SimpleNamespace(
        num_attention_heads=query_heads, num_key_value_heads=kv_heads, head_dim=head_dim, hidden_size=hidden_dim,
        num_hidden_layers=layers, _attn_implementation="sdpa")
    return module


def run_layer(sizes, seed, layer, press, eager, rotated=False):
    """Scores before padding a press adds, kept tokens of each head, and the values it leaves, in token order."""
    _, query_heads, kv_heads, tokens, head_dim, _ = sizes
    q, k, v, w = (torch.from_numpy(x) for x in layer_input(sizes, seed, layer))
    module = fake_module(sizes, layer, w)
    flat = lambda rows: rows.transpose(0, 1).reshape(1, tokens, -1)
    hidden = torch.cat([flat(turned_back(q) if rotated else q), flat(k.flip(-1) if rotated else k)], -1)
    rotation = (torch.ones(1, tokens, head_dim), torch.zeros(1, tokens, head_dim))
    if rotated:
        rotation = rotation_at(torch.arange(tokens), head_dim)
    keys, values = k[None], v[None]
    attention = None
    if eager:
        logits = q @ k.repeat_interleave(query_heads // kv_heads, 0).transpose(1, 2) / math.sqrt(head_dim)
        hidden_keys = torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), 1)
        attention = torch.softmax(logits.masked_fill(hidden_keys, float("-inf")), -1)[None]
    kwargs = {"position_embeddings": rotation}
    scorer = getattr(press, "press", press)
    module.masked_key_indices = None
    with mock.patch("torch.randn", sketch_of(getattr(press, "seed", 0), layer)):
        scores = scorer.score(module, hidden, keys, values, attention, kwargs)[0] if hasattr(scorer, "score") else None
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


def finch(window, **options):
    press = FinchPress(rerotate_keys=False, **options)
    press.window_size = window
    return press


def case(shape, seed, method, keep, press, eager=False, values=False, scores=True, note="", rotated=False):
    sizes = SIZES[shape]
    if not isinstance(press, SimLayerKVPress):
        press.compression_ratio = 1 - keep if isinstance(keep, float) else 1 - (keep + 0.5) / sizes[3]
    layers = [run_layer(sizes, seed, layer, press, eager, rotated) for layer in range(sizes[0])]
    result = {"method": method, "keep": str(keep), "sizes": sizes, "seed": seed,
              "kept": [kept for _, kept, _ in layers]}
    if scores and layers[0][0] is not None:
        result["scores"] = rounded(layers[0][0])
    if method.startswith(("leverage", "compactor")):  # solves with a Gram matrix, in float32
        result["score_tolerance"] = [1e-4, 2e-4]
    if values:
        result["values"] = [rounded(left) for _, _, left in layers]
    if note:
        result["note"] = note
    return result


def cam_case(shape, seed, base, press, slots, rows, window):
    """CAMPress at one cut, `rows` decode steps after the prompt; a token merges where its chance is above a half."""
    sizes = SIZES[shape]
    layers, query_heads, kv_heads, tokens, head_dim, _ = sizes
    kept, left = [], []
    for layer in range(layers):
        q, k, v, w = (torch.from_numpy(x) for x in layer_input(sizes, seed, layer))
        logits = q @ k.repeat_interleave(query_heads // kv_heads, 0).transpose(1, 2) / math.sqrt(head_dim)
        later = torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), 1)
        attention = torch.softmax(logits.masked_fill(later, float("-inf")), -1)[:, -rows:].sum(1)
        received = attention.view(kv_heads, -1, tokens).mean(1)[None]
        cam = CAMPress(press, target_size=slots, merge_budget=window)
        cam.layer_step_counts[layer] = rows
        cam._running_attn_sum[layer] = received.clone()
        hidden = q.transpose(0, 1).reshape(1, tokens, -1)
        module = fake_module(sizes, layer, w)
        still = {"position_embeddings": (torch.ones(1, tokens, head_dim), torch.zeros(1, tokens, head_dim))}
        with mock.patch("torch.bernoulli", lambda chance: (chance > 0.5).float()):
            keys, values = cam.compress(module, hidden, k[None].clone(), v[None].clone(), received, still)
        place = {k[0, t].numpy().tobytes(): t for t in range(tokens)}
        kept.append([[place[row.numpy().tobytes()] for row in keys[0, 0]]] * kv_heads)
        left.append(rounded(values[0].numpy()))
    return {"method": f"{base} | top_k:heads=mean | cam:window={window},chance=half", "keep": str(slots),
            "sizes": sizes, "seed": seed, "decode_rows": rows, "shared": True, "kept": kept, "values": left}


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
    for shape, seed in (("grouped", 400), ("three", 500)):
        turned = lambda method, keep, press, **more: case(shape, seed, method, keep, press, rotated=True, **more)
        snapkv = lambda: SnapKVPress(window_size=4, kernel_size=5)
        cases += [
            turned("expected_attention", 13, ExpectedAttentionPress()),
            turned("expected_attention:future=32,sinks=2,covariance=false,epsilon=0.02", 13,
                   ExpectedAttentionPress(n_future_positions=32, n_sink=2, use_covariance=False, epsilon=0.02)),
            turned("expected_attention:future=7,value=false", 13,
                   ExpectedAttentionPress(n_future_positions=7, use_vnorm=False)),
            turned("expected_attention:epsilon=0.01 | adakv", 13,
                   AdaKVPress(ExpectedAttentionPress(epsilon=0.01))),
            turned("cap", 13, CapPress()),
            turned("cap:tau=2,future=32,sinks=2,epsilon=0.01", 13,
                   CapPress(tau=2, n_future_positions=32, n_sink=2, epsilon=0.01)),
            turned("leverage:sketch=4", 13, LeverageScorePress(sketch_dimension=4)),
            turned("leverage", 13, LeverageScorePress()),
            turned("non_causal:chunk=6", 13, NonCausalAttnPress(chunk_size=6)),
            turned("non_causal:chunk=11", 13, NonCausalAttnPress(chunk_size=11)),
            turned("non_causal", 13, NonCausalAttnPress()),
            turned("compactor:chunk=7,sketch=4", 0.5, CompactorPress(chunk_size=7, sketch_dimension=4)),
            turned("compactor:first=2,last=1,chunk=10", 0.25,
                   CompactorPress(sink_size_start=2, sink_size_end=1, chunk_size=10)),
            turned("compactor:chunk=7,sketch=6,blend=fixed,weight=1.5", 16,
                   CompactorPress(chunk_size=7, sketch_dimension=6, blending=1.5)),
            turned("finch:window=5,rerotate=false", 13, finch(5)),
            turned("finch:window=4,normalise=false,rerotate=false", 13, finch(4, normalize_scores=False)),
            turned("finch:window=4,rerotate=false | spans:size=12", 0.5, finch(4, chunk_length=12)),
            turned("snapkv:window=4 | chunks:size=5", 0.5, ChunkKVPress(snapkv(), chunk_length=5), scores=False),
            turned("chunkkv:window=4,size=3", 0.4, ChunkKVPress(snapkv(), chunk_length=3), scores=False),
            turned("keydiff | chunks:size=7", 0.3, ChunkKVPress(KeyDiffPress(), chunk_length=7), scores=False),
            turned("keydiff:block=5", 13, BlockPress(KeyDiffPress(), block_size=5), scores=False),
            turned("keydiff:block=3", 0.5, BlockPress(KeyDiffPress(), block_size=3), scores=False),
            turned("keydiff:block=100", 7, BlockPress(KeyDiffPress(), block_size=100), scores=False),
            turned("knorm | chunks:size=100", 13, ChunkKVPress(KnormPress(), chunk_length=100)),
            turned("simlayerkv:threshold=0.5,recent=6,queries=2,sinks=2", 1.0,
                   SimLayerKVPress(lazy_threshold=0.5, n_last=2, n_recent=6, n_initial=2)),
            turned("simlayerkv:threshold=0.3,recent=8", 1.0, SimLayerKVPress(lazy_threshold=0.3, n_recent=8)),
            cam_case(shape, seed, "knorm", KnormPress(), 13, 6, 32),
            cam_case(shape, seed, "keydiff", KeyDiffPress(), 20, 12, 3),
            cam_case(shape, seed, "snapkv:window=4", snapkv(), 14, 30, 5),
            turned("simlayerkv:threshold=0.3,recent=28", 1.0, SimLayerKVPress(lazy_threshold=0.3, n_recent=28)),
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
