"""Writes spectral_reference.txt: spectra and metrics of a few matrices by numpy and WeightWatcher 0.7.7.

usage: spectral_reference.py > spectral_reference.txt       (numpy 2.4.6, WeightWatcher 0.7.7, CPU)

Entries follow from their place, so no matrix is stored: w(r, c) = ((37 r + 101 c + 13 r c + c (r^3 + c)) mod 257 - 128) *
2^(-3 - (r mod 5)), exact in float32. numpy: eigenvalues are squared singular values in float64 (tolerance
64 n eps of the largest), entropy, participation ratio and both effective ranks to 1e-10. WeightWatcher: norm,
stable_rank, and its power law fit (alpha, D, sigma, xmin over eigenvalues above 1e-5) to 1e-6. Its entropy, mp_* and
rand_distance differ on purpose (specs/spectral.md 9) and are asserted to differ where a closed form is known.
"""

import numpy as np
from weightwatcher.RMT_Util import matrix_entropy
from weightwatcher.WW_powerlaw import WWFit

SHAPES = [(24, 40), (64, 64), (96, 160), (160, 96)]


def matrix(rows, columns):
    r, c = np.arange(rows)[:, None], np.arange(columns)[None, :]
    return ((37 * r + 101 * c + 13 * r * c + c * (r**3 + c)) % 257 - 128) * 2.0 ** (-3 - r % 5)


def main():
    print("# written by spectral_reference.py; numpy", np.__version__, "WeightWatcher 0.7.7")
    for rows, columns in SHAPES:
        s = np.linalg.svd(matrix(rows, columns), compute_uv=False)
        lam = s**2
        p, q = lam / lam.sum(), s / s.sum()
        entropy = -(p * np.log(p)).sum()
        values = {
            "fro2": lam.sum(), "stable_rank": lam.sum() / lam[0], "participation_ratio": lam.sum() ** 2 / (lam**2).sum(),
            "erank_energy": np.exp(entropy), "erank_sv": np.exp(-(q * np.log(q)).sum()), "entropy": entropy / np.log(len(lam)),
        }
        fit = WWFit(lam[lam > 1e-5])
        values |= {"ww_alpha": fit.alpha, "ww_D": fit.D, "ww_sigma": fit.sigma, "ww_xmin": fit.xmin}
        print("matrix", rows, columns)
        for name, value in values.items():
            print(name, repr(float(value)))
        print("eigenvalues", " ".join(repr(float(value)) for value in lam))
    one = np.zeros(4096)
    one[0] = 2.0
    print("ww_entropy_of_rank_one", repr(float(matrix_entropy(one, 4096))))


if __name__ == "__main__":
    main()
