"""Writes blocks.gguf: for each block type a tensor of it and, as F32, what it means.

usage: blocks.py

Made with gguf 0.19.0 (the reference package's reading of ggml's formats); Q1_0, which that cannot read, with ggml
itself as llama-cpp-python 0.3.36 brings it. Per type: blocks of random bytes with
sane scales, one of zeros, one with every quant bit set, and one with a negative and a subnormal scale. Compared to
2 units in the last place of the largest term, since the order of products differs between implementations.
"""
import ctypes
import pathlib

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

# where the fp16 scales of a block lie; None: the scales are made of other bits, random bytes will do
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
    "Q5_K": [0, 2], "Q6_K": [208], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0],
    "IQ1_M": None, "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": None,
    "NVFP4": None, "Q1_0": [0],
}


def blocks_of(name, generator):
    elements, size = gguf.GGML_QUANT_SIZES[Type[name]]
    data = generator.integers(0, 256, (8 if elements < 256 else 4, size), dtype=np.uint8)
    data[1] = 0
    data[2] = 255
    if name == "IQ1_M":  # its fp16 scale is spread over the top nibbles of four scale words: exponent kept small
        for row in data:
            row[55] = row[55] & 15 | 0x20
    if name == "MXFP4":  # an exponent of its own, 2^(e - 128)
        data[:, 0] = [127, 0, 128, 1, 120, 140, 2, 100]
    for at in SCALES[name] or []:
        scales = generator.normal(0, 0.05, len(data)).astype(np.float16)
        scales[3] = np.float16(-3e-7)
        data[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return data.reshape(1, -1)


def expected(name, data):
    if name != "Q1_0":
        return gguf.dequantize(data, Type[name]).astype(np.float32)
    ggml = ctypes.CDLL(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so")
    elements, size = gguf.GGML_QUANT_SIZES[Type[name]]
    out = np.empty((1, data.size // size * elements), np.float32)
    ggml.dequantize_row_q1_0(ctypes.c_void_p(data.ctypes.data), ctypes.c_void_p(out.ctypes.data),
                             ctypes.c_int64(out.size))
    return out


def main():
    generator = np.random.default_rng(5)
    writer = gguf.GGUFWriter(pathlib.Path(__file__).parent / "blocks.gguf", "blocks")
    for name in SCALES:
        data = blocks_of(name, generator)
        writer.add_tensor(name, data, raw_dtype=Type[name])
        writer.add_tensor(name + ".expected", expected(name, data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
