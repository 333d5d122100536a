"""The context manager that attaches a capture to a model."""

import functools
import json
import os
import sys
import warnings

import torch

from . import _hooks, _model, _presses, _tokens
from ._library import CaptureError, load

DONE, STOPPED, FAILED = 4, 5, 6
RUNNING, REFUSED = 0, 1
_names = set()


class CaptureWarning(UserWarning):
    """Something about a capture that its user should know; the run is as it was."""


def _request(model, modules, path, options):
    kernel = model.config.get_text_config(decoder=True)._attn_implementation
    facts = _model.describe(model, modules, kernel, options.pop("name", None))
    method = options.pop("method", None)
    if method is not None:
        facts["method"] = method
    request = {key: value for key, value in options.items() if value is not None}
    request.update(path=os.fspath(path), model=facts)
    return request


class Capture:
    """A capture attached to a model, from `with` to its end. Made by `kvscope.capture`.

    After the block: `path` (None if no file was left), `decision_path` (of what a compression evicted, or None),
    `profile`, `prompt_tokens`, `steps` (decode steps written), `notes` (list of str).
    """

    def __init__(self, model, path, *, tokenizer=None, prompt=None, context_tokens=None, **options):
        self.path = self.decision_path = self.profile = None
        self.prompt_tokens = self.steps = 0
        self.notes = []
        self._model, self._tokenizer = model, tokenizer
        self._prompt, self._context_tokens = prompt, context_tokens
        self._hook_names = tuple(options.get("hooks") or ())
        unknown = [name for name in self._hook_names if name not in _hooks.POINTS]
        if unknown:
            raise CaptureError(f"no hook point '{unknown[0]}'", "hooks", f"choose from {', '.join(_hooks.POINTS)}")
        self._declared = options.get("method") is not None
        self._options = dict(options, path=path)
        self._handles, self._undo = [], []
        self._ids = self._positions = None  # of the pass that has not begun
        self._inside_model = self._started = False
        self._trouble = None  # an error of this package's own, after the first pass
        self._keys = {}       # keys before RoPE, by layer, until their attention is seen

    # ---- attaching -------------------------------------------------------------------------------------------------
    def __enter__(self):
        self._operators = load()
        options = dict(self._options)
        path = options.pop("path")
        self._modules = _model.attention_modules(self._model)
        self._request = _request(self._model, self._modules, path, options)
        self._facts = self._request["model"]
        weights = [_model.output_weights(module) for module in self._modules]
        self._state = self._operators.open_capture(json.dumps(self._request), weights)
        try:
            self._raise_if_refused()
            self._give_prompt()
            self._attach()
        except BaseException:
            self._detach()
            self._operators.close_capture(self._state, FAILED, "")
            raise
        return self

    def _give_prompt(self):
        if self._prompt is None:
            if self._context_tokens is not None:
                raise CaptureError("context_tokens without prompt", "capture", "pass prompt=input_ids as well")
            return
        ids = torch.as_tensor(self._prompt).reshape(-1).cpu()
        context = len(ids) if self._context_tokens is None else self._context_tokens
        texts = _tokens.packed(_tokens.pieces(self._tokenizer, ids.tolist()))
        self._operators.give_prompt(self._state, ids, *texts, context)
        self._raise_if_refused()

    def _attach(self):
        try:
            from transformers import AttentionInterface, AttentionMaskInterface
            from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
        except ImportError as error:
            raise CaptureError(f"this transformers has no AttentionInterface: {error}", "transformers",
                               "install transformers 4.53 or newer") from error
        kernel = self._facts["attention_kernel"]
        number = 1
        while f"kvscope_{number}" in _names:
            number += 1
        name = f"kvscope_{number}"
        if kernel in _names:
            raise CaptureError("the model is being captured already", self._facts["name"], "end that capture first")

        see = _hooks.untraced(functools.partial(self._guarded, self._see_attention))

        def attention(module, query, key, value, attention_mask, *args, **kwargs):
            if kernel == "eager":
                original = sys.modules[type(module).__module__].eager_attention_forward
            else:
                original = ALL_ATTENTION_FUNCTIONS[kernel]
            result = original(module, query, key, value, attention_mask, *args, **kwargs)
            see(module, query, key, value, attention_mask, kwargs, result)
            return result

        AttentionInterface.register(name, attention)
        _names.add(name)
        if kernel in ALL_MASK_ATTENTION_FUNCTIONS:  # without it no mask is built, and causality is lost
            AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])

        def forget():
            _names.discard(name)
            for interface, mapping in ((AttentionInterface, ALL_ATTENTION_FUNCTIONS),
                                       (AttentionMaskInterface, ALL_MASK_ATTENTION_FUNCTIONS)):
                interface._global_mapping.pop(name, None)
                mapping._local_mapping.pop(name, None)

        self._undo.append(forget)
        config = self._model.config.get_text_config(decoder=True)
        self._undo.append(lambda: setattr(config, "_attn_implementation_internal", kernel))
        config._attn_implementation_internal = name
        if {id(module.config) for module in self._modules if hasattr(module, "config")} - {id(config)}:
            raise CaptureError("layers have configurations of their own", type(self._model).__name__,
                               "capture a model whose layers share one")
        self._watch()

    def _watch(self):
        decoder = _model.decoder_of(self._model)
        keep, untraced = self._handles.append, _hooks.untraced
        rotary = _model.rotary_module(self._model)
        keep(decoder.register_forward_pre_hook(untraced(self._before_decoder), with_kwargs=True))
        keep(decoder.register_forward_hook(untraced(
            lambda *_: None if self._inside_model else self._guarded(self._end_pass, None))))
        keep(rotary.register_forward_pre_hook(untraced(self._before_rotary), with_kwargs=True))
        if decoder is not self._model:
            keep(self._model.register_forward_pre_hook(untraced(lambda *_: setattr(self, "_inside_model", True))))
            keep(self._model.register_forward_hook(untraced(self._after_model)))
        wanted = set(self._hook_names)
        if self._options.get("profile") not in ("window", "scores"):
            wanted.add("keys_pre_rope")
        layers = getattr(decoder, "layers", None) or getattr(decoder, "h", [])
        for number, module in enumerate(self._modules):
            self._handles += _hooks.head_hooks(module, self._facts, wanted, self._sink(number))
            if number < len(layers):
                points = [point for point in _hooks.LAYER_POINTS if point in wanted]
                if number == 0 and "embedding" in wanted:
                    self._handles += _hooks.layer_hooks(layers[0], ["residual_in"],
                                                        lambda _, rows: self._hook("embedding", len(self._modules), rows))
                self._handles += _hooks.layer_hooks(layers[number], points, self._sink(number))
        norm = getattr(decoder, "norm", None)
        if "final_norm" in wanted and norm is not None:
            keep(norm.register_forward_hook(untraced(
                lambda _, args, output: self._hook("final_norm", len(self._modules), output[0]))))

    def _sink(self, layer):
        def sink(point, tensor):
            if point == "keys_pre_rope":
                self._keys[layer] = tensor
            if point in self._hook_names:
                self._hook(point, layer, tensor)
        return sink

    def _detach(self):
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        while self._undo:
            self._undo.pop()()

    # ---- while the model runs --------------------------------------------------------------------------------------
    def _guarded(self, work, *args):
        """The run goes on whatever happens here, but for what the first pass refuses."""
        if self._trouble is not None or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            return
        try:
            work(*args)
        except CaptureError as error:
            self._trouble = error
            if not self._started:
                raise
        except Exception as error:  # ours, never the run's
            self._trouble = CaptureError(f"{type(error).__name__}: {error}", "capture",
                                         "report this; the run was not touched")

    def _raise_if_refused(self):
        if int(self._state[1]) == REFUSED:
            raise CaptureError(self._operators.capture_error(self._state))

    def _before_decoder(self, module, args, kwargs):
        ids = args[0] if args else kwargs.get("input_ids")
        self._ids, self._positions = (ids if ids is not None else kwargs.get("inputs_embeds")), None
        self._keys.clear()

    def _before_rotary(self, module, args, kwargs):
        positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if self._ids is not None:
            self._guarded(self._begin_pass, self._ids, positions)
            self._ids = None

    def _begin_pass(self, ids, positions):
        if ids.is_floating_point():
            raise CaptureError("the model is fed embeddings", "inputs_embeds", "feed input_ids: a capture holds tokens")
        if ids.dim() != 2 or ids.shape[0] != 1:
            raise CaptureError(f"a batch of {ids.shape[0]} sequences", "input_ids", "run one sequence; no beams, no batch")
        if positions is None or positions.dim() != 2:
            raise CaptureError("positions are not one number a token", "position_ids",
                               "capture a text model; rotations in several dimensions are not recorded")
        if not self._started and not self._declared:
            press = _presses.press_on(self._modules)
            if press is not None:
                self._operators.name_method(self._state, press)
        ids, positions = ids[0].cpu(), positions[0].cpu()
        texts = _tokens.packed(_tokens.pieces(self._tokenizer, ids.tolist()))
        self._operators.begin_pass(self._state, ids, positions, *texts)
        self._raise_if_refused()

    def _see_attention(self, module, query, key, value, mask, kwargs, result):
        layer = module.layer_idx
        if mask is not None and not isinstance(mask, torch.Tensor):
            raise CaptureError(f"a mask of type {type(mask).__name__}", f"layer {layer}",
                               "use an implementation with tensors as masks: sdpa, eager or flash attention")
        causal = kwargs.get("is_causal")
        if not (getattr(module, "is_causal", True) if causal is None else causal):
            raise CaptureError("attention is not causal", f"layer {layer}", "capture decoders only")
        kernel = self._facts["attention_kernel"]
        scale = kwargs.get("scaling")
        softcap = kwargs.get("softcap") if kernel != "sdpa" else None
        windows = self._facts["layer_windows"]
        window = kwargs.get("sliding_window") or (windows[layer] if windows else 0)
        heads, columns = _presses.hidden_cells(module)
        self._operators.capture_attention(
            self._state, query, key, value, mask, layer,
            float(query.shape[-1] ** -0.5 if scale is None else scale), float(softcap or 0),
            int(window), result[0], self._keys.pop(layer, None), heads, columns)
        self._raise_if_refused()

    def _hook(self, point, layer, tensor):
        self._guarded(self._operators.capture_hook, self._state, point, layer, tensor)

    def _after_model(self, module, args, output):
        self._inside_model = False
        logits = getattr(output, "logits", None)
        self._guarded(self._end_pass, logits[0] if logits is not None and logits.dim() == 3 else None)

    def _end_pass(self, logits):
        self._operators.end_pass(self._state, logits)
        self._raise_if_refused()
        self._started = True

    # ---- the end ---------------------------------------------------------------------------------------------------
    def __exit__(self, kind, error, trace):
        self._detach()
        how, message = DONE, ""
        if kind is not None:
            how = STOPPED if issubclass(kind, KeyboardInterrupt) else FAILED
            message = f"{kind.__name__}: {error}".split("\n")[0]
        elif self._trouble is not None:
            how, message = FAILED, str(self._trouble).split("\n")[0]
        report = json.loads(self._operators.close_capture(self._state, how, message))
        self.path, self.decision_path = report["path"] or None, report["decision_path"] or None
        self.profile, self.notes = report["profile"], report["notes"]
        self.prompt_tokens, self.steps = report["prompt_tokens"], report["steps"]
        for note in self.notes:
            warnings.warn(note, CaptureWarning, stacklevel=2)
        if kind is None and self._trouble is not None:
            raise self._trouble
        if kind is None and report["error"]:
            raise CaptureError(report["error"])
        return False


def capture(model, path, *, profile=None, tokenizer=None, new_tokens=256, prompt=None, context_tokens=None,
            windows=(32, 64), layers="all", query_heads="all", kv_heads="all", steps="all", hooks=(), hook_tokens="all",
            stored_queries=1024, snapshots="none", group_reduce="", sample_queries=0, seed=0, top_keys=0, pooled_block=0,
            head_output_norm=False, received_by_segment=False, attention_row=False, evicted_mass=False, method=None,
            name=None, live=False, live_on_network=False, compress=False, never_drop=False, drop_bulk=True, force=False,
            confirmed=False):
    """A context manager that writes down what `model` does inside the block.

    model: a transformers decoder (PreTrainedModel), one sequence at a time. path: NAME.capture.h5.
    profile: "window" (what the newest queries see, norms), "scores" (and statistics over all queries), "qkv" (and K,
    V, the newest `stored_queries` queries) or "full" (all queries); None: "qkv" if that is under 1 GiB, else "window".
    tokenizer: for the text of tokens. new_tokens: the most tokens that are fed after the prompt; what comes beyond is
    not recorded. The first forward pass is the prompt, unless prompt [tokens] (ids) says what is read in chunks;
    context_tokens of it stand before the question. windows: observation windows, in queries, ascending.
    layers, query_heads, kv_heads, steps, hook_tokens, snapshots: "all", "0-3,7", "every:4", "last:2"; true indices.
    hooks: further points of the forward pass, e.g. ["residual_in", "queries_pre_rope", "logits", "attention"].
    method: what compresses the cache, in words; kvpress is recognised. live: others may follow the file while it grows
    (SWMR). drop_bulk: leave tensors out rather than hold the model up when the disk is slow. force: overwrite.
    The rest as the options of `kvscope capture`, whose --help explains them.

    Tensors are read as the attention function gets them: queries [query_heads, n, head_dim] and keys, values
    [kv_heads, tokens, head_dim] after RoPE; probabilities sum to 1 over the keys; entropy and LSE in nats. Keys before
    RoPE come with "qkv" and "full". Statistics are computed on the model's device, in float32.

    Raises CaptureError on entering (a file that exists, a library that does not fit this torch, a model that cannot be
    captured), inside the first forward pass (a batch, padding, a mask that is not the layer's, biases), and on leaving
    (a full disk, a cache that cannot be traced to tokens, a run that went back): after the first pass the model is never
    held up by an error of the capture, and `path` is None if no file is left. Everything is restored on leaving, whatever
    happened. Cost: the statistics, and for "scores" and above a second product of queries and keys.
    """
    return Capture(model, path, profile=profile, tokenizer=tokenizer, new_tokens=new_tokens, prompt=prompt,
                   context_tokens=context_tokens, windows=list(windows), layers=layers, query_heads=query_heads,
                   kv_heads=kv_heads, steps=steps, hooks=list(hooks), hook_tokens=hook_tokens,
                   stored_queries=stored_queries, snapshots=snapshots, group_reduce=group_reduce,
                   sample_queries=sample_queries, seed=seed, top_keys=top_keys, pooled_block=pooled_block,
                   head_output_norm=head_output_norm, received_by_segment=received_by_segment,
                   attention_row=attention_row, evicted_mass=evicted_mass, method=method, name=name, live=live,
                   live_on_network=live_on_network, compress=compress, never_drop=never_drop, drop_bulk=drop_bulk,
                   force=force, confirmed=confirmed)


def price(model, prompt_tokens, **options):
    """What `capture(model, ..., **options)` of a prompt of so many tokens costs, before any run.

    Returns {"profile", "disk_bytes", "memory_bytes" (beyond weights and cache), "statistics_flop"}.
    """
    operators = load()
    options.pop("tokenizer", None)
    request = _request(model, _model.attention_modules(model), "price.capture.h5", options)
    found = json.loads(operators.price_capture(json.dumps(request), prompt_tokens))
    if "error" in found:
        raise CaptureError(found["error"])
    return found
