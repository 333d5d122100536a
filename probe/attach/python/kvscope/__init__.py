"""kvscope: write down what a Hugging Face model does with its key-value cache.

    import kvscope
    with kvscope.capture(model, "run.capture.h5", profile="scores", tokenizer=tokenizer, new_tokens=64) as run:
        model.generate(**inputs, max_new_tokens=64)
    print(run.path, run.steps)

The file is the one that `kvscope capture` writes: `kvscope check, inspect, decide, report, view, extract` and
`compare` take it, and h5py reads it, also while it grows (live=True).
"""

from ._capture import Capture, CaptureWarning, capture, price
from ._library import CaptureError, check_build, library_path, version

__all__ = ["Capture", "CaptureError", "CaptureWarning", "capture", "check_build", "library_path", "price", "version"]
