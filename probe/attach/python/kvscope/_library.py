"""Finds libkvscope_torch, compares it with the Python's LibTorch, loads it."""

import json
import os
import pathlib
import sys

import torch

NAME = "libkvscope_torch"


class CaptureError(RuntimeError):
    """What is wrong, where, and how to fix it, in lines."""

    def __init__(self, what, where="", fix=""):
        lines = [what, f"where: {where}" if where else "", f"fix:   {fix}" if fix else ""]
        super().__init__("\n".join(line for line in lines if line))


def library_path():
    """Path of the library: KVSCOPE_LIBRARY, or where an installation or a build folder has it."""
    asked = os.environ.get("KVSCOPE_LIBRARY")
    if asked:
        return pathlib.Path(asked)
    here = pathlib.Path(__file__).resolve().parent
    places = [here / f"{NAME}.so"]  # beside the package
    places += [folder / f"{NAME}.so" for folder in list(here.parents)[:3]]  # lib/kvscope/python/kvscope
    places += [folder / "build" / "bin" / f"{NAME}.so" for folder in here.parents]
    for place in places:
        if place.is_file():
            return place
    raise CaptureError(f"{NAME}.so was not found", str(here),
                       "install kvscope (cmake --install), or set KVSCOPE_LIBRARY to the file")


def _part(version, count):
    return ".".join(version.split("+")[0].split(".")[:count])


def check_build(facts, torch_version, cxx11_abi, cuda):
    """Raises CaptureError if the library `facts` speak of cannot live with this LibTorch.

    facts: {"torch": "2.11.0", "cxx11_abi": true, "cuda": "13.0" or ""}; the rest as torch says of itself,
    `cuda` None without CUDA. A library that does not fit would fail with an undefined symbol, or worse.
    """
    where = f"{NAME}.so and torch"
    if _part(facts["torch"], 2) != _part(torch_version, 2):
        raise CaptureError(f"kvscope was built for torch {facts['torch']}, this Python has torch {torch_version}",
                           where, f"install torch {_part(facts['torch'], 2)}, or build kvscope with "
                                  "-DKVSCOPE_TORCH_DIR=FOLDER of this torch")
    if bool(facts["cxx11_abi"]) != bool(cxx11_abi):
        raise CaptureError(f"kvscope was built with _GLIBCXX_USE_CXX11_ABI={int(facts['cxx11_abi'])}, "
                           f"this torch {torch_version} with {int(cxx11_abi)}", where,
                           "use a torch wheel of the same ABI, or build kvscope against this one")
    if facts.get("cuda") and cuda and _part(facts["cuda"], 1) != _part(cuda, 1):
        raise CaptureError(f"kvscope was built with CUDA {facts['cuda']}, this torch {torch_version} with CUDA {cuda}",
                           where, "use a torch wheel of the same CUDA major version, or build kvscope with -DKVSCOPE_CUDA=OFF")


_loaded = None


def load():
    """Loads the library once; returns torch.ops.kvscope. Raises CaptureError before loading what does not fit."""
    global _loaded
    if _loaded is not None:
        return torch.ops.kvscope
    path = library_path()
    sidecar = path.with_suffix(".json")
    try:
        facts = json.loads(sidecar.read_text())
    except (OSError, ValueError) as error:
        raise CaptureError(f"{sidecar.name} cannot be read: {error}", str(path.parent),
                           "it says what the library was built for; install or build kvscope again") from error
    check_build(facts, torch.__version__, torch.compiled_with_cxx11_abi(), torch.version.cuda)
    if not sys.platform.startswith("linux"):
        raise CaptureError(f"kvscope does not run on {sys.platform}", fix="use Linux")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise CaptureError(f"the library cannot be loaded: {error}", str(path),
                           "install the shared libraries that it names") from error
    _loaded = facts
    return torch.ops.kvscope


def version():
    """Version of the library, e.g. "0.1.0"."""
    load()
    return _loaded["version"]
