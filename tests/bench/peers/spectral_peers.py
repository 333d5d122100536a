"""WeightWatcher and torch on the weights that spectral_speed reads; one JSON line a cell.

usage: spectral_peers.py weightwatcher MODEL.gguf LAYERS ROUNDS | matrix N ROUNDS

weightwatcher: q, k and v of LAYERS layers, dequantised by the gguf package (needs weightwatcher 0.7.7).
matrix: eigenvalues of an N x N Gram matrix, product included, in float64 by torch, and the singular values of the
matrix by scipy, which is WeightWatcher's way on a CPU.
"""

import contextlib
import io
import json
import logging
import statistics
import sys
import time


def median(rounds, work):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(**line):
    print(json.dumps(line), flush=True)


def run_weightwatcher(path, layers, rounds):
    import gguf
    import torch
    import weightwatcher
    from importlib.metadata import version

    logging.disable(logging.CRITICAL)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    model = torch.nn.Module()
    for layer in range(layers):
        for name in "qkv":
            tensor = tensors[f"blk.{layer}.attn_{name}.weight"]
            weight = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight.data.copy_(weight)
            model.add_module(f"{name}{layer}", linear)

    def analyze():
        with contextlib.redirect_stdout(io.StringIO()):
            table = weightwatcher.WeightWatcher(model=model).analyze(min_evals=0)
        assert len(table) == 3 * layers, len(table)

    report(name="weightwatcher.qkv", version=version("weightwatcher"), matrices=3 * layers, seconds=median(rounds, analyze))


def run_matrix(n, rounds):
    import torch

    weight = torch.rand(n, n) - 0.5

    def spectrum():
        wide = weight.double()
        torch.linalg.eigvalsh(wide @ wide.T)

    report(name="torch.one", version=torch.__version__, threads=torch.get_num_threads(), seconds=median(rounds, spectrum))
    try:
        from scipy.linalg import svd
    except ImportError:
        return
    report(name="scipy.svd", seconds=median(1, lambda: svd(weight.double().numpy(), compute_uv=False)))


def main():
    if sys.argv[1:2] == ["weightwatcher"] and len(sys.argv) == 5:
        run_weightwatcher(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["matrix"] and len(sys.argv) == 4:
        run_matrix(int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
