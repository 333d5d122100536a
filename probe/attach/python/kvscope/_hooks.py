"""Hook points of a transformers model, by forward hooks; names as `kvscope capture --hooks` has them."""

import functools

import torch

# torch.compile leaves what is wrapped in this out of its graphs, which would be compiled anew for every layer.
untraced = functools.partial(torch.compiler.disable, reason="a capture reads tensors between graphs: compile without fullgraph")

# point: (module inside a layer, what is taken of it)
LAYER_POINTS = {
    "residual_in": ("", "input"),
    "attention_input": ("input_layernorm", "output"),
    "block_attention": ("self_attn.o_proj", "output"),
    "residual_mid": ("pre_feedforward_layernorm|post_attention_layernorm", "input"),
    "mlp_input": ("mlp", "input"),
    "mlp_output": ("mlp", "output"),
    "residual_out": ("", "output"),
}
HEAD_POINTS = ("queries_raw", "keys_raw", "queries_pre_rope", "keys_pre_rope")
POINTS = (*LAYER_POINTS, *HEAD_POINTS, "queries", "keys", "values", "attention_output", "embedding", "final_norm",
          "logits", "attention", "logits_attention")


def first_tensor(values):
    return values[0] if isinstance(values, (tuple, list)) else values


def input_of(args, kwargs):
    return args[0] if args else kwargs["hidden_states"]


def submodule(layer, names):
    """The first of names "a|b" that the layer has, dots for parts; None without any."""
    for name in names.split("|"):
        found = layer
        for part in filter(None, name.split(".")):
            found = getattr(found, part, None)
        if found is not None:
            return found
    return None


def heads_first(tensor, heads, source):
    """[heads, n, head_dim] of what a projection or a QK norm gives for one sequence.

    It comes as [1, n, heads * head_dim], [1, n, heads, head_dim] or [1, heads, n, head_dim]; which of the last
    two shows in the strides of `source`, what went into the norm: a view of the projection's rows.
    """
    rows = tensor[0]
    if rows.dim() == 2:
        return rows.view(rows.shape[0], heads, -1).transpose(0, 1)
    token_first = source.stride(1) > source.stride(2) if source.stride(1) != source.stride(2) \
        else tensor.shape[2] == heads
    return rows.transpose(0, 1) if token_first else rows


def head_hooks(attention, shape, points, sink):
    """Hooks that hand `sink(point, tensor)` queries and keys before RoPE; returns their handles.

    shape: {"query_heads", "kv_heads", "head_dim"}; tensors are [heads, n, head_dim].
    """
    handles = []

    def watch(module, point, heads, columns=slice(None)):
        def hook(_, args, output):
            taken = output[..., columns] if output.dim() == 3 else output
            sink(point, heads_first(taken, heads, args[0]))
        handles.append(module.register_forward_hook(untraced(hook)))

    queries, keys = shape["query_heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    for kind, heads, norm, part in (("queries", shape["query_heads"], "q_norm", slice(0, queries)),
                                    ("keys", shape["kv_heads"], "k_norm", slice(queries, queries + keys))):
        projection = getattr(attention, "q_proj" if kind == "queries" else "k_proj", None)
        fused = getattr(attention, "qkv_proj", None)
        if projection is None and fused is None:
            continue
        raw = (projection, slice(None)) if projection is not None else (fused, part)
        if f"{kind}_raw" in points:
            watch(raw[0], f"{kind}_raw", heads, raw[1])
        if f"{kind}_pre_rope" in points:
            normed = getattr(attention, norm, None)
            if normed is not None:
                watch(normed, f"{kind}_pre_rope", heads)
            else:
                watch(raw[0], f"{kind}_pre_rope", heads, raw[1])
    return handles


def layer_hooks(layer, points, sink):
    """Hooks that hand `sink(point, tensor)` rows [n, hidden_dim] of a decoder layer; returns their handles."""
    handles = []
    for point in points:
        if point not in LAYER_POINTS:
            continue
        module = submodule(layer, LAYER_POINTS[point][0])
        if module is None:
            continue
        if LAYER_POINTS[point][1] == "input":
            handles.append(module.register_forward_pre_hook(untraced(
                lambda _, args, kwargs, point=point: sink(point, input_of(args, kwargs)[0])), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(untraced(
                lambda _, args, output, point=point: sink(point, first_tensor(output)[0]))))
    return handles
