"""Attached captures of transformers models against eager attention, our own runtime and kvpress.

usage: hf_attach.py --library LIBKVSCOPE_TORCH.so --programs FOLDER [--python PYTHON] PART
       PART: families (statistics and tensors of tiny seeded models, and our own capture of the same),
             generate (a tokenizer, live files, h5py in the process, errors, everything restored),
             kvpress (presses that prune and presses that hide),
             variants (half precision, compiled models, the programs on an attached file)

Exit status 77 with the reason where PYTHON has no transformers. Tolerances: float32 through a few layers, 1e-4 of the
largest number; against our own runtime, which adds in another order, 5e-4.
"""

import argparse
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
NEEDED = ("torch", "transformers", "h5py", "numpy")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--programs", required=True)
    parser.add_argument("--python", default=None)
    parser.add_argument("part", choices=("families", "generate", "kvpress", "variants"))
    return parser.parse_args()


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def other_python(asked):
    """Goes on in the Python that was named."""
    if asked is None:
        return
    if not asked:
        skip("no Python with transformers was named: configure with -DKVSCOPE_HF_PYTHON=PYTHON")
    rest = [argument for argument in sys.argv if argument not in ("--python", asked)]
    sys.exit(subprocess.run([asked, *rest], check=False).returncode)


ARGUMENTS = arguments()
other_python(ARGUMENTS.python)
for name in NEEDED + (("kvpress",) if ARGUMENTS.part == "kvpress" else ()):
    if importlib.util.find_spec(name) is None:
        skip(f"this Python has no {name}")

os.environ["KVSCOPE_LIBRARY"] = ARGUMENTS.library
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(ROOT / "probe" / "attach" / "python"), str(ROOT / "tests" / "golden"), str(ROOT / "tests" / "attach")]

import h5py  # noqa: E402  (before kvscope: its HDF5 is in the process first)
import numpy as np  # noqa: E402
import torch  # noqa: E402

import kvscope  # noqa: E402

torch.manual_seed(7)
torch.set_num_threads(2)
KVSCOPE = str(pathlib.Path(ARGUMENTS.programs) / "kvscope")
FAILURES = []


def check(what, holds, detail=""):
    if not holds:
        FAILURES.append(what)
    print(f"{'ok  ' if holds else 'FAIL'} {what}{': ' if detail else ''}{detail}")


def near(what, found, expected, tolerance=1e-4):
    """The largest difference over the largest number, NaN standing for NaN."""
    found, expected = np.asarray(found, dtype="f8"), np.asarray(expected, dtype="f8")
    if found.shape != expected.shape or not np.array_equal(np.isnan(found), np.isnan(expected)):
        check(what, False, f"shapes {found.shape} and {expected.shape}, or other cells are empty")
        return
    worst = np.nanmax(np.abs(found - expected), initial=0) / max(np.nanmax(np.abs(expected), initial=0), 1e-9)
    check(what, worst <= tolerance, f"{worst:.1e}")


def refused(what, text, work):
    try:
        work()
    except kvscope.CaptureError as error:
        check(what, text in str(error), str(error).replace("\n", " | "))
        return
    check(what, False, "nothing was raised")


def program(*words):
    done = subprocess.run([KVSCOPE, *words], capture_output=True, text=True, check=False)
    check(f"kvscope {words[0]}", done.returncode == 0, (done.stderr.strip().splitlines() or [""])[-1][:160])
    return done.stdout


def main():
    import hf_parts
    with tempfile.TemporaryDirectory() as folder:
        getattr(hf_parts, ARGUMENTS.part)(sys.modules["__main__"], pathlib.Path(folder))
    print(f"{len(FAILURES)} failures")
    sys.exit(1 if FAILURES else 0)


if __name__ == "__main__":
    warnings.simplefilter("error", kvscope.CaptureWarning)
    main()
