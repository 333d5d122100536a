"""The library beside a Python: what it shows, and what is said of one that does not fit. Needs no torch.

usage: library_test.py LIBKVSCOPE_TORCH.so
"""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import types
import unittest

LIBRARY = pathlib.Path(sys.argv.pop(1))
SOURCES = pathlib.Path(__file__).resolve().parents[2] / "probe" / "attach" / "python" / "kvscope"


def loader():
    """kvscope/_library.py without torch."""
    sys.modules.setdefault("torch", types.ModuleType("torch"))
    spec = importlib.util.spec_from_file_location("_library", SOURCES / "_library.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Library(unittest.TestCase):
    def test_it_shows_no_symbol_of_hdf5_or_of_ours(self):
        tool = shutil.which("nm")
        if tool is None:
            self.skipTest("no nm here")
        shown = subprocess.run([tool, "-D", "--defined-only", str(LIBRARY)], capture_output=True, text=True, check=True)
        self.assertEqual([line for line in shown.stdout.splitlines() if " H5" in line or "kvscope" in line], [])

    def test_it_looks_for_no_libtorch_of_its_own(self):
        tool = shutil.which("readelf")
        if tool is None:
            self.skipTest("no readelf here")
        shown = subprocess.run([tool, "-d", str(LIBRARY)], capture_output=True, text=True, check=True).stdout
        self.assertIn("libtorch_cpu.so", shown)
        self.assertNotIn("torch/lib", shown)

    def test_it_says_what_it_was_built_for(self):
        facts = json.loads(LIBRARY.with_suffix(".json").read_text())
        self.assertEqual(sorted(facts), ["cuda", "cxx11_abi", "torch", "version"])
        loader().check_build(facts, facts["torch"] + "+cu130", True, facts["cuda"] or "13.0")


class Mismatch(unittest.TestCase):
    FACTS = {"torch": "2.11.0", "cxx11_abi": True, "cuda": "13.0"}

    def refused(self, *texts, torch="2.11.1", abi=True, cuda="13.2"):
        module = loader()
        with self.assertRaises(module.CaptureError) as caught:
            module.check_build(self.FACTS, torch, abi, cuda)
        for text in (*texts, "\nwhere: ", "\nfix:   "):
            self.assertIn(text, str(caught.exception))

    def test_patches_and_processors_do_not_matter(self):
        loader().check_build(self.FACTS, "2.11.5+cpu", True, None)

    def test_another_torch(self):
        self.refused("torch 2.11.0", "torch 2.9.1+cu128", torch="2.9.1+cu128")

    def test_another_abi(self):
        self.refused("_GLIBCXX_USE_CXX11_ABI=1", "with 0", abi=False)

    def test_another_cuda(self):
        self.refused("CUDA 13.0", "CUDA 12.8", cuda="12.8")


if __name__ == "__main__":
    unittest.main()
