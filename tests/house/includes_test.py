"""Fails on an include that the architecture does not have, and on a source file that grew too long.

usage: includes_test.py ROOT | includes_test.py --self-test

MODULES below is the table of README's architecture section: what a module may include of kvscope, and
which outside libraries. Public headers may include the standard library, kvscope and LibTorch only, so
that an installed package asks for nothing else.
"""

import pathlib
import re
import sys
import tempfile
import unittest

# module: (folder, modules it may include besides itself and core, outside libraries)
MODULES = {
    "core": ("probe/core", "", "fmt"),
    "storage": ("probe/storage", "", "fmt hdf5"),
    "model": ("probe/model", "", "fmt json jinja pcre2"),
    "kernels": ("probe/kernels", "", "fmt torch cuda"),
    "evidence": ("probe/evidence", "storage kernels", "fmt torch"),
    "capture": ("probe/capture", "storage kernels", "fmt torch json"),
    "runtime": ("probe/runtime", "model evidence capture kernels storage", "fmt torch"),
    "attach": ("probe/attach", "evidence capture kernels storage", "fmt torch json"),
    "methods": ("methods", "evidence kernels storage", "fmt torch json"),
    "spectral": ("spectral", "model storage", "fmt eigen cusolver cuda"),
    "scene": ("viewer/scene", "", "fmt json"),
    "report": ("viewer/report", "scene storage", "fmt json png"),
    "gui": ("viewer/gui", "scene report storage", "fmt imgui gl png cli11"),
    "cli": ("viewer/cli",
            "storage model kernels evidence capture runtime attach methods spectral scene report",
            "fmt cli11 torch json"),
}

LIBRARIES = {
    "fmt": r"fmt/",
    "hdf5": r"hdf5|H5\w*\.h$",
    "json": r"nlohmann/",
    "jinja": r"jinja/",
    "pcre2": r"pcre2",
    "torch": r"(ATen|c10|torch|caffe2)/",
    "cusolver": r"cusolver",
    "cuda": r"cuda|cub/|cooperative_groups|mma\.h$|driver_types\.h$|vector_types\.h$",
    "eigen": r"Eigen/|unsupported/Eigen/",
    "png": r"png\.h$",
    "imgui": r"imgui|implot|imstb",
    "gl": r"(GLFW|EGL|GL|GLES\d?|KHR|glad)/",
    "cli11": r"CLI/",
}

# Headers that make every file which includes them slow to compile.
HEAVY = {"torch/torch.h", "torch/script.h", "torch/extension.h", "ATen/ATen.h"}

SYSTEM = re.compile(r"(sys|linux|arpa|netinet|sanitizer)/\w+\.h$|(unistd|fcntl|dlfcn|signal|poll|sched|spawn|termios|strings|dirent|"
                    r"immintrin|x86intrin|cpuid|omp|pthread|errno|malloc)\.h$")
STANDARD = re.compile(r"[a-z0-9_]+$|(assert|ctype|errno|float|inttypes|limits|math|signal|stdarg|stddef|stdint|stdio|"
                      r"stdlib|string|time|wchar)\.h$")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = {".cpp", ".h", ".cu", ".cuh", ".inl"}
COUNTED = SOURCES | {".py", ".sh", ".cmake"}
LONGEST = 400


def module_of(path):
    """The module that owns a path relative to the root, or None."""
    for name, (folder, _, _) in MODULES.items():
        if path.as_posix().startswith(folder + "/"):
            return name
    return None


def library_of(target):
    for name, pattern in LIBRARIES.items():
        if re.match(pattern, target):
            return name
    return None


def owner_of(target):
    """The module of "kvscope/MODULE/file.h", or None if it is no public header."""
    parts = target.split("/")
    return parts[1] if len(parts) == 3 and parts[0] == "kvscope" else None


def judge(root, path, quote, target):
    """Why `path` may not include `target`, or None."""
    module = module_of(path)
    _, modules, libraries = MODULES[module]
    public = "/include/kvscope/" in path.as_posix()
    owner = owner_of(target)
    if owner:
        if owner in {module, "core", *modules.split()}:
            return None if (root / MODULES[owner][0] / "include" / target).is_file() else "there is no such header"
        return f"{module} may include core{''.join(', ' + m for m in modules.split())}"
    library = library_of(target)
    if library:
        if target in HEAVY:
            return "include the operator's own header, <ATen/ops/NAME.h>"
        if path.suffix in {".cu", ".cuh"} and library == "torch":
            return "CUDA files know pointers and sizes, no tensors"
        if library not in libraries.split():
            return f"{module} may use {libraries.replace(' ', ', ')}"
        return f"a public header may not include {library}" if public and library != "torch" else None
    if quote == "<":
        if STANDARD.match(target) or (SYSTEM.match(target) and not public):
            return None
        return "a system header this test does not know" if not public else "not in the standard library"
    for folder in (path.parent, pathlib.Path(MODULES[module][0])):
        found = root / folder / target
        if found.is_file():
            inside = found.resolve().is_relative_to((root / MODULES[module][0]).resolve())
            return None if inside and not public else "private files are for their own module's sources"
    return f"not found in {MODULES[module][0]}"


def sources(root):
    for folder in ("probe", "spectral", "methods", "viewer", "tests", "cmake", "data", ".ci"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(root)
    for path in sorted(root.iterdir()):
        if path.is_file():
            yield path.relative_to(root)


def check(root):
    """Every finding under `root`, as FILE:LINE: sentence."""
    findings = []
    for path in sources(root):
        if path.suffix not in COUNTED and path.name not in {"run", "CMakeLists.txt"}:
            continue
        lines = (root / path).read_text(encoding="utf-8").splitlines()
        if len(lines) > LONGEST:
            findings.append(f"{path}:{len(lines)}: longer than {LONGEST} lines")
        if path.suffix not in SOURCES or module_of(path) is None:
            continue
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            reason = match and judge(root, path, match.group(1), match.group(2))
            if reason:
                findings.append(f"{path}:{number}: includes {match.group(2)}: {reason}")
    return findings


class SelfTest(unittest.TestCase):
    """Each rule finds a planted violation and lets the allowed neighbour pass."""

    def findings(self, files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            headers = {"probe/core/include/kvscope/core/budget.h": "", "methods/include/kvscope/methods/method.h": "",
                       "probe/storage/include/kvscope/storage/file_kind.h": "", "probe/storage/handle.h": ""}
            for name, text in {**headers, **files}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            return check(root)

    def refused(self, name, include, reason):
        found = self.findings({name: f"#pragma once\n#include {include}\n"})
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith(f"{name}:2: "), found)
        self.assertIn(reason, found[0])

    def allowed(self, name, include):
        self.assertEqual(self.findings({name: f"#include {include}\n"}), [])

    def test_an_arrow_to_a_higher_level(self):
        self.refused("probe/storage/capture.cpp", '"kvscope/methods/method.h"', "storage may include core")
        self.allowed("viewer/cli/decide.cpp", '"kvscope/methods/method.h"')
        self.allowed("probe/storage/capture.cpp", '"kvscope/core/budget.h"')

    def test_a_header_that_does_not_exist(self):
        self.refused("methods/topk.cpp", '"kvscope/core/ranks.h"', "no such header")

    def test_libraries_outside_their_doors(self):
        self.refused("methods/topk.cpp", "<hdf5.h>", "methods may use fmt, torch, json")
        self.refused("viewer/scene/map.cpp", '"imgui.h"', "scene may use")
        self.refused("probe/kernels/stats.cpp", "<Eigen/Dense>", "kernels may use")
        self.refused("viewer/gui/window.cpp", "<ATen/core/Tensor.h>", "gui may use")
        self.refused("viewer/report/text.cpp", "<GLFW/glfw3.h>", "report may use")
        self.allowed("probe/storage/capture.cpp", "<hdf5.h>")
        self.allowed("viewer/gui/window.cpp", '"imgui.h"')
        self.allowed("spectral/gram.cpp", "<Eigen/Dense>")

    def test_public_headers_ask_for_nothing(self):
        self.refused("probe/storage/include/kvscope/storage/open.h", "<hdf5.h>", "public header")
        self.refused("probe/storage/include/kvscope/storage/open.h", "<unistd.h>", "not in the standard library")
        self.allowed("methods/include/kvscope/methods/score.h", "<ATen/core/Tensor.h>")
        self.allowed("methods/include/kvscope/methods/score.h", "<string_view>")

    def test_private_headers_of_others(self):
        self.refused("methods/topk.cpp", '"../probe/storage/handle.h"', "private")
        self.refused("methods/topk.cpp", '"storage/handle.h"', "not found in methods")
        self.allowed("probe/storage/capture.cpp", '"handle.h"')

    def test_heavy_headers_and_tensors_in_cuda(self):
        self.refused("methods/topk.cpp", "<ATen/ATen.h>", "operator's own header")
        self.refused("probe/kernels/cuda/stats.cu", "<ATen/core/Tensor.h>", "no tensors")
        self.allowed("probe/kernels/cuda/stats.cu", "<cuda_runtime.h>")

    def test_long_files(self):
        found = self.findings({"methods/topk.cpp": "\n" * 401, "tests/core/budget_test.cpp": "\n" * 400})
        self.assertEqual(found, ["methods/topk.cpp:401: longer than 400 lines"])


def main(arguments):
    if arguments == ["--self-test"]:
        return unittest.main(argv=sys.argv[:1])
    if len(arguments) != 1:
        sys.exit(__doc__)
    findings = check(pathlib.Path(arguments[0]))
    for finding in findings:
        print(finding)
    if not findings:
        print("includes: every arrow is one the architecture has")
    return sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
