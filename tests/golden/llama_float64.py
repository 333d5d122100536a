"""A Llama model from a GGUF file in float64, for golden scripts: weights, norm, rotation, attention of a whole prompt.

Shares nothing with kvscope. Made with torch 2.11.0, gguf 0.19, numpy 2.
"""

import math

import gguf
import numpy as np
import torch

torch.set_default_dtype(torch.float64)


class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        field = lambda name: reader.fields[name].contents()
        self.layers = field("llama.block_count")
        self.heads = field("llama.attention.head_count")
        self.kv = field("llama.attention.head_count_kv")
        self.dim = field("llama.rope.dimension_count")
        self.epsilon = field("llama.attention.layer_norm_rms_epsilon")
        self.base = field("llama.rope.freq_base")
        self.w = {t.name: torch.tensor(gguf.dequantize(t.data, t.tensor_type).astype(np.float64)) for t in reader.tensors}
        for layer in range(self.layers):
            for name, heads in (("attn_q", self.heads), ("attn_k", self.kv)):
                key = f"blk.{layer}.{name}.weight"
                w = self.w[key]  # rows for neighbouring pairs; put each head's halves together
                self.w[key] = w.view(heads, self.dim // 2, 2, -1).transpose(1, 2).reshape(w.shape)

    def norm(self, x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.epsilon) * self.w[name + ".weight"]

    def omega(self):
        half = self.dim // 2
        return self.base ** (-torch.arange(half, dtype=torch.float64) * 2 / self.dim)

    def rope(self, x, positions):  # [heads, n, dim]
        half = self.dim // 2
        angle = positions.to(torch.float64)[:, None] * self.omega()
        c, s = torch.cos(angle), torch.sin(angle)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    def mlp(self, x, layer):
        p = f"blk.{layer}."
        h = self.norm(x, p + "ffn_norm")
        gate, up = h @ self.w[p + "ffn_gate.weight"].T, h @ self.w[p + "ffn_up.weight"].T
        return x + (torch.nn.functional.silu(gate) * up) @ self.w[p + "ffn_down.weight"].T


def run_prompt(model, ids):
    """One pass over a prompt. Per layer: raw queries [heads, n, dim], and q, k (turned), v, p [heads, n, n]."""
    x, n = model.w["token_embd.weight"][torch.tensor(ids)], len(ids)
    positions, r, seen = torch.arange(n), model.heads // model.kv, []
    for layer in range(model.layers):
        p = f"blk.{layer}."
        h = model.norm(x, p + "attn_norm")
        split = lambda name, heads: (h @ model.w[p + name + ".weight"].T).view(n, heads, model.dim).transpose(0, 1)
        raw, k, v = split("attn_q", model.heads), split("attn_k", model.kv), split("attn_v", model.kv)
        q, k = model.rope(raw, positions), model.rope(k, positions)
        logits = q @ k.repeat_interleave(r, 0).transpose(1, 2) / math.sqrt(model.dim)
        prob = torch.softmax(logits.masked_fill(positions[None, :] > positions[:, None], -math.inf), -1)
        out = prob @ v.repeat_interleave(r, 0)
        x = x + out.transpose(0, 1).reshape(n, -1) @ model.w[p + "attn_output.weight"].T
        x = model.mlp(x, layer)
        seen.append(dict(raw=raw, q=q, k=k, v=v, p=prob))
    return seen
