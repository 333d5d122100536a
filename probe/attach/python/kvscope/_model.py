"""What a transformers model is, in the words of a capture file."""

import hashlib
import math

import torch

from ._library import CaptureError

PROJECTIONS = ("o_proj", "dense", "out_proj")
SCALINGS = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn", "longrope": "longrope",
            "dynamic": "dynamic", "su": "longrope"}


def decoder_of(model):
    """The stack of layers: what maps input_ids to final hidden states."""
    if hasattr(model, "get_decoder"):
        return model.get_decoder()
    return getattr(model, "base_model", model)


def attention_modules(model):
    """[layers] attention modules, by layer. Raises CaptureError if some are missing."""
    found = {}
    for module in decoder_of(model).modules():
        layer = getattr(module, "layer_idx", None)
        if isinstance(layer, int) and any(hasattr(module, name) for name in PROJECTIONS) and layer not in found:
            found[layer] = module
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if sorted(found) != list(range(layers)):
        raise CaptureError(f"{len(found)} attention modules were found for {layers} layers", type(model).__name__,
                           "capture a decoder whose attention modules have layer_idx and o_proj")
    return [found[layer] for layer in range(layers)]


def output_weights(module):
    """W_O of an attention module, [hidden_dim, query_heads * head_dim] float; a quantised one is taken apart."""
    linear = next(getattr(module, name) for name in PROJECTIONS if hasattr(module, name))
    weight = linear.weight
    if weight.is_floating_point() and weight.dim() == 2 and weight.device.type != "meta":
        return weight.detach()
    columns = getattr(linear, "in_features", None) or weight.shape[-1]
    device = weight.device if weight.device.type != "meta" else "cpu"
    with torch.no_grad():
        unit = torch.eye(columns, device=device, dtype=torch.float32)
        rows = linear(unit).float()
        bias = getattr(linear, "bias", None)
        return (rows - bias.float() if bias is not None else rows).T.contiguous()


def window_of(module, config, layer):
    """Sliding window of a layer in tokens, 0 = global."""
    if hasattr(module, "sliding_window"):
        return int(module.sliding_window or 0)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[layer] != "sliding_attention":
        return 0
    return int(getattr(config, "sliding_window", None) or 0) if getattr(config, "use_sliding_window", True) else 0


def rotary_module(model):
    """The module that is called with position_ids, or None."""
    for module in decoder_of(model).modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            return module
    return None


def _long_frequencies(config, device):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    original = config.rope_parameters["original_max_position_embeddings"]
    frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](config, device, seq_len=original + 1)
    return [float(value) for value in frequencies]


def _rope(rotary, config, prefix, parameters):
    """One rotation: its frequencies in radians per position are those the model computes with."""
    kind = parameters.get("rope_type", "default")
    if kind not in SCALINGS:
        raise CaptureError(f"unknown RoPE type '{kind}'", "config.rope_parameters", f"known are {', '.join(SCALINGS)}")
    frequencies = getattr(rotary, f"{prefix}original_inv_freq", None)
    if frequencies is None:
        frequencies = getattr(rotary, f"{prefix}inv_freq")
    rope = {"base": float(parameters.get("rope_theta", 10000.0)), "dims": 2 * len(frequencies),
            "inverse_frequency": [float(value) for value in frequencies], "scaling": SCALINGS[kind],
            "attention_factor": float(getattr(rotary, f"{prefix}attention_scaling", 1.0))}
    if kind in ("longrope", "su"):
        rope.update(growth=1, original_context=int(parameters["original_max_position_embeddings"]),
                    long_inverse_frequency=_long_frequencies(config, "cpu"))
    if kind == "dynamic":
        rope.update(growth=2, growth_factor=float(parameters["factor"]),
                    original_context=int(parameters.get("original_max_position_embeddings")
                                         or config.max_position_embeddings))
    return rope


def ropes(model, config, layers):
    """The kinds of rotation, and which each layer has."""
    rotary = rotary_module(model)
    if rotary is None:
        raise CaptureError("the model has no rotary embedding", type(model).__name__,
                           "capture a model that rotates queries and keys; positions are read from that module")
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    if all(isinstance(parameters.get(kind), dict) for kind in set(kinds)):
        names = sorted(set(kinds))
        found = [_rope(rotary, config, f"{name}_", parameters[name]) for name in names]
        return found, [names.index(kind) for kind in kinds]
    found, used = [_rope(rotary, config, "", parameters)], [0] * layers
    unrotated = getattr(config, "no_rope_layers", None)
    if unrotated is not None and not all(unrotated):
        found.append({"dims": 0, "inverse_frequency": [], "scaling": "none"})
        used = [0 if rotates else 1 for rotates in unrotated]
    return found, used


def model_hash(model):
    """16 hex digits over names, shapes and a sample of each tensor: the same weights give the same digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if tensor.device.type != "meta" and tensor.numel():
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 64)][:64].contiguous().cpu()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def softcap_of(config, kernel):
    """Softcap of attention logits as the run applies it: transformers' sdpa leaves it out."""
    cap = getattr(config, "attn_logit_softcapping", None)
    return float(cap) if cap and kernel != "sdpa" else 0.0


def describe(model, modules, kernel, name=None):
    """The "model" part of a request, but for the method."""
    import transformers
    config = model.config.get_text_config(decoder=True)
    if getattr(model.config, "is_encoder_decoder", False):
        raise CaptureError("an encoder-decoder", type(model).__name__, "capture decoders only")
    layers = len(modules)
    heads = config.num_attention_heads
    head_dim = getattr(modules[0], "head_dim", None) or getattr(config, "head_dim", None) or config.hidden_size // heads
    kinds, used = ropes(model, config, layers)
    cap = getattr(config, "attn_logit_softcapping", None)
    windows = [window_of(module, config, layer) for layer, module in enumerate(modules)]
    quantised = getattr(config, "quantization_config", None) or getattr(model.config, "quantization_config", None)
    dtype = str(model.dtype).removeprefix("torch.")
    return {
        "name": name or (config._name_or_path or model.config._name_or_path or config.model_type).rstrip("/").split("/")[-1],
        "hash": model_hash(model),
        "architecture": config.model_type.removesuffix("_text"),
        "weights_dtype": str(getattr(quantised, "quant_method", dtype)).split(".")[-1].lower() if quantised else dtype,
        "compute_dtype": dtype,
        "cache_dtype": dtype,
        "device": str(model.device),
        "attention_kernel": kernel,
        "attached_to": f"transformers {transformers.__version__}",
        "notes": "sdpa leaves out the model's softcap of attention logits; so does this capture"
                 if cap and kernel == "sdpa" else "",
        "layers": layers,
        "query_heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": head_dim,
        "hidden_dim": config.hidden_size,
        "vocabulary": config.vocab_size,
        "attention_scale": float(getattr(modules[0], "scaling", None) or 1 / math.sqrt(head_dim)),
        "logit_softcap": softcap_of(config, kernel),
        "layer_windows": windows if any(windows) else [],
        "ropes": kinds,
        "layer_rope": used,
    }
