"""Copies of GGUF files with other tensors."""
import gguf
from gguf.quants import dequantize

# what a file says of its tensors' types, and what gguf-py writes otherwise than it reads
LEFT_OUT = ("general.architecture", "general.file_type", "tokenizer.ggml.precompiled_charsmap")


def rewrite(source, output, change):
    """The same metadata; each tensor as `change(tensor)` gives it: numbers or blocks, and their type."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(output, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in LEFT_OUT:
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        data, kind = change(tensor)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def as_f32(source, output):
    """The same model, every tensor dequantised."""
    rewrite(source, output, lambda tensor: (dequantize(tensor.data, tensor.tensor_type), gguf.GGMLQuantizationType.F32))
