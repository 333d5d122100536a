"""Writes family_NAME.json: what transformers computes at each stage of tiny seeded models, one per family.

usage: families.py OUT_FOLDER [NAME...]

Weights are not stored: every tensor is offset + scale * u, u the uniform numbers of `uniform` below,
seeded by the tensor's name, which tests/runtime/golden_model.h repeats. A golden holds the Hugging Face
config, the tensors (name, shape, scale, offset), what kvscope's ModelConfig must say, and for some token
ids the stages of specs "hook points" at two rows, the logits there and the most likely token everywhere.
Float32, eager attention. torch 2.11.0, transformers 5.2.0. Tolerance of the tests: 2e-4 of the largest
number of a stage (float32 through three layers; angles are float32 on both sides).
"""

import importlib
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

BASE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=96, max_position_embeddings=256, bos_token_id=1,
            eos_token_id=2, pad_token_id=0, rms_norm_eps=1e-5)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
LONG = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=32,
            partial_rotary_factor=0.75, short_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 2.0],
            long_factor=[1.0, 1.5, 2.5, 4.0, 6.0, 9.0])

FAMILIES = {  # name: (architecture, changes to BASE, tokens)
    "llama2": ("llama", dict(num_key_value_heads=4, attention_bias=True,
                             rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)), 40),
    "llama3": ("llama", dict(rope_parameters=LLAMA3, tie_word_embeddings=True), 40),
    "llama_ntk": ("llama", dict(max_position_embeddings=32, rope_parameters=dict(
        rope_type="dynamic", rope_theta=10000.0, factor=2.0)), 48),
    "mistral": ("mistral", dict(num_key_value_heads=1, sliding_window=7, head_dim=20,
                                rope_parameters=dict(rope_type="default", rope_theta=10000.0)), 40),
    "qwen2": ("qwen2", dict(rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), 40),
    "qwen3": ("qwen3", dict(head_dim=32, rope_parameters=YARN), 40),
    "phi3": ("phi3", dict(rope_parameters=LONG, partial_rotary_factor=0.75), 24),
    "phi3_long": ("phi3", dict(rope_parameters=LONG, partial_rotary_factor=0.75), 48),
    "gemma2": ("gemma2", dict(num_hidden_layers=4, head_dim=24, query_pre_attn_scalar=20, sliding_window=8,
                              attn_logit_softcapping=3.0, final_logit_softcapping=2.0,
                              hidden_activation="gelu_pytorch_tanh"), 40),
    "gemma3": ("gemma3_text", dict(num_hidden_layers=4, num_key_value_heads=1, head_dim=24,
                                   query_pre_attn_scalar=20, sliding_window=8, layer_types=[
                                       "sliding_attention", "full_attention"] * 2,
                                   rope_parameters=dict(
                                       sliding_attention=dict(rope_type="default", rope_theta=10000.0),
                                       full_attention=dict(rope_type="linear", rope_theta=1000000.0,
                                                           factor=8.0))), 40),
    "smollm3": ("smollm3", dict(num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0],
                                rope_parameters=dict(rope_type="default", rope_theta=50000.0)), 40),
    "falcon": ("falcon", dict(multi_query=True, parallel_attn=True, new_decoder_architecture=False,
                              alibi=False, bias=False, ffn_hidden_size=96, layer_norm_epsilon=1e-5,
                              rope_parameters=dict(rope_type="default", rope_theta=10000.0)), 40),
}


def uniform(name, count):
    """Numbers in [-1, 1), exact in float32: splitmix64 over FNV-1a of the name plus the index."""
    seed = 14695981039346656037
    for byte in name.encode():
        seed = (seed ^ byte) * 1099511628211 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)


def fill(model, family):
    """Seeds every weight; returns [{name, shape, scale, offset}]. Gemma stores norm weights minus one."""
    tensors = []
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if name == "lm_head.weight" and model.config.tie_word_embeddings:
                continue
            norm = tensor.dim() == 1 and ("norm" in name or ".ln_" in name) and not name.endswith("bias")
            scale = 1.0 if "embed" in name else 0.25
            offset = 1.0 if norm and not family.startswith("gemma") else 0.0
            tensor.copy_(torch.from_numpy(uniform(name, tensor.numel())).view(tensor.shape) * scale + offset)
            tensors.append(dict(name=name, shape=list(tensor.shape), scale=scale, offset=offset))
    return tensors


class Stages:
    """Collects stages while the model runs; [rows, ...] with heads before channels."""

    def __init__(self, model):
        self.found = {}
        self.layer = -1
        core = model.transformer if hasattr(model, "transformer") else model.model
        self.layers = core.h if hasattr(core, "h") else core.layers
        for index, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(self.on_enter(index), with_kwargs=True)
            layer.register_forward_hook(self.on_leave(index))
            attention = layer.self_attention if hasattr(layer, "self_attention") else layer.self_attn
            output = attention.dense if hasattr(attention, "dense") else attention.o_proj
            output.register_forward_pre_hook(
                lambda _, args: self.put("attention_output", args[0][0]))
            self.heads = model.config.num_attention_heads
        self.module = importlib.import_module(type(model).__module__)
        turn = self.module.apply_rotary_pos_emb

        def rotary(q, k, *args, **kwargs):
            self.put("queries_pre_rope", q[0].transpose(0, 1))
            self.put("keys_pre_rope", k[0].transpose(0, 1))
            turned = turn(q, k, *args, **kwargs)
            self.put("queries", turned[0][0].transpose(0, 1))
            self.put("keys", turned[1][0].transpose(0, 1))
            return turned

        self.module.apply_rotary_pos_emb = rotary
        if hasattr(self.module, "eager_attention_forward"):
            attend = self.module.eager_attention_forward

            def eager(module, query, key, value, *args, **kwargs):
                self.put("queries", query[0].transpose(0, 1))
                self.put("keys", key[0].transpose(0, 1))
                self.put("values", value[0].transpose(0, 1))
                return attend(module, query, key, value, *args, **kwargs)

            self.module.eager_attention_forward = eager

    def put(self, stage, tensor):
        self.found[(stage, self.layer)] = tensor.detach().float()

    def on_enter(self, index):
        def hook(_, args, kwargs):
            self.layer = index
            self.put("residual_in", (args[0] if args else kwargs["hidden_states"])[0])
        return hook

    def on_leave(self, index):
        def hook(_, args, output):
            self.put("residual_out", (output[0] if isinstance(output, tuple) else output).reshape(
                self.found[("residual_in", index)].shape))
        return hook


def rope_of(model, layer, tokens):
    """(inverse frequencies, attention factor) of a layer as the model used them in the last pass."""
    core = model.transformer if hasattr(model, "transformer") else model.model
    config, rotary = model.config, core.rotary_emb
    if not getattr(config, "no_rope_layers", [1] * 99)[layer]:
        return [], 1.0
    prefix = "" if hasattr(rotary, "inv_freq") else config.layer_types[layer] + "_"
    frequency = getattr(rotary, prefix + "inv_freq").double()
    return [float(f"{x:.9g}") for x in frequency.tolist()], float(getattr(rotary, prefix + "attention_scaling"))


def expected_config(model, tokens):
    """The fields of ModelConfig and ModelShape that decide the forward pass."""
    c = model.config
    layers = c.num_hidden_layers
    types = getattr(c, "layer_types", None) or ["full_attention"] * layers
    if c.model_type == "mistral":
        types = ["sliding_attention"] * layers
    window = getattr(c, "sliding_window", None) or 0
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    kv_heads = 1 if c.model_type == "falcon" else c.num_key_value_heads
    ropes = [rope_of(model, layer, tokens) for layer in range(layers)]
    activation = getattr(c, "hidden_activation", None) or getattr(c, "hidden_act", None) or c.activation
    return dict(
        layers=layers, query_heads=c.num_attention_heads, kv_heads=kv_heads, head_dim=head_dim,
        hidden_dim=c.hidden_size, vocabulary=c.vocab_size,
        mlp_dim=getattr(c, "intermediate_size", None) or c.ffn_hidden_size,
        attention_scale=(getattr(c, "query_pre_attn_scalar", None) or head_dim) ** -0.5,
        logit_softcap=getattr(c, "attn_logit_softcapping", None) or 0.0,
        output_softcap=getattr(c, "final_logit_softcapping", None) or 0.0,
        layer_windows=[window if t == "sliding_attention" else 0 for t in types],
        ropes=[dict(inverse_frequency=f, attention_factor=a) for f, a in ropes],
        norm_epsilon=getattr(c, "rms_norm_eps", None) or c.layer_norm_epsilon,
        norm="layer" if c.model_type == "falcon" else "rms",
        activation={"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}[activation],
        gated_mlp=c.model_type != "falcon", parallel_mlp=c.model_type == "falcon",
        embedding_scale=c.hidden_size**0.5 if c.model_type.startswith("gemma") else 1.0,
        tied_embeddings=bool(c.tie_word_embeddings))


def make(name):
    architecture, changes, tokens = FAMILIES[name]
    base = dict(BASE)
    if architecture == "falcon":
        for key in ("intermediate_size", "num_key_value_heads", "rms_norm_eps"):
            del base[key]
    config = AutoConfig.for_model(architecture, **{**base, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    tensors = fill(model, name)
    ids = [int(3 + (uniform(name + "/ids", tokens)[i] + 1) * 46) for i in range(tokens)]
    stages = Stages(model)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    rows = [tokens // 2, tokens - 1]
    number = lambda x: float(f"{x:.7g}")
    golden = dict(
        about="made by families.py", family=name,
        versions=dict(torch=torch.__version__, transformers=transformers.__version__),
        config=json.loads(config.to_json_string(use_diff=False)), tensors=tensors,
        expected=expected_config(model, tokens), ids=ids, rows=rows,
        stages=[dict(stage=stage, layer=layer, rows=[
            [number(x) for x in tensor[row].reshape(-1).tolist()] for row in rows])
            for (stage, layer), tensor in stages.found.items()],
        logits=[[number(x) for x in logits[row].tolist()] for row in rows],
        top1=logits.argmax(-1).tolist())
    importlib.reload(stages.module)
    return golden


def main():
    folder = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or FAMILIES:
        golden = make(name)
        text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in golden.items())
        (folder / f"family_{name}.json").write_text("{\n" + text + "\n}\n", encoding="utf-8")
        print(name, len(text), "bytes")


if __name__ == "__main__":
    main()
