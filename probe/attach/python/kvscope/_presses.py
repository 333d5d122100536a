"""What kvpress does to a cache, as far as it says so itself."""

import dataclasses


def _is_press(value):
    return any(base.__module__.split(".")[0] == "kvpress" for base in type(value).__mro__)


def text_of(press):
    """A press in words: kvpress.SnapKVPress(compression_ratio=0.5, window_size=64)."""
    parts = []
    for field in dataclasses.fields(press) if dataclasses.is_dataclass(press) else []:
        value = getattr(press, field.name, None)
        if isinstance(value, (bool, int, float, str)):
            parts.append(f"{field.name}={value}")
        elif _is_press(value):
            parts.append(f"{field.name}={text_of(value)}")
    return f"kvpress.{type(press).__name__}({', '.join(parts)})"


def press_on(modules):
    """Text of the press whose hooks hang on these attention modules, or None."""
    for module in modules:
        for hook in module._forward_hooks.values():
            owner = getattr(hook, "__self__", None)
            if owner is not None and _is_press(owner):
                return text_of(owner)
    return None


def hidden_cells(module):
    """KV heads and columns of the cache that kvpress hides behind invented keys, or (None, None)."""
    cells = getattr(module, "masked_key_indices", None)
    return (None, None) if cells is None else (cells[1], cells[2])
