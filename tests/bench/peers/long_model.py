"""Writes a copy of a GGUF model whose rotation is scaled to a longer context: long_model.py IN.gguf OUT.gguf FACTOR.

The weights stay as they are; llama.context_length and a linear llama.rope.scaling are set. For measuring memory and time of
long captures on real sizes, not for what the model says.
"""

import sys

import gguf


def copied(writer, name, field):
    kind = field.types[0]
    if kind == gguf.GGUFValueType.ARRAY:
        writer.add_array(name, field.contents())
    else:
        writer.add_key_value(name, field.contents(), kind)


def main():
    source, target, factor = sys.argv[1], sys.argv[2], int(sys.argv[3])
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    skipped = {"general.architecture", f"{architecture}.context_length"}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in skipped:
            copied(writer, name, field)
    writer.add_context_length(reader.fields[f"{architecture}.context_length"].contents() * factor)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(float(factor))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
