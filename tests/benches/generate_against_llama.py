#!/usr/bin/env python3
"""Generation against llama.cpp: the same GGUF file, threads and numbers of tokens, greedy, ends of sequences ignored; the two sides alternate.

    cargo bench --no-run --bench decoding
    pip install xllamacpp numpy
    python generate_against_llama.py --ours target/release/deps/decoding-... --model MODEL.gguf [--bf16] [--threads 2] [--rounds 5] [--library libllama.so]

Prints tokens a second of one sequence, of 16 decoded together and of a prompt, and the ratio of each round (min/median/max). Reading the prompt is no part of the
first two. llama.cpp is called through its C interface: no server, and no sampler but the index of the greatest logit. The wheel of xllamacpp is compiled for AVX2;
a library compiled for this machine (`cmake -B build -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=ON`, target llama) is named with --library. With --bf16, both read a
twin of the file whose weights are widened to bf16; the Python package gguf makes it.
"""
import argparse, ctypes, json, os, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--ours")
parser.add_argument("--model", required=True)
parser.add_argument("--library")
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
for name, default in (("threads", 2), ("rounds", 5), ("prompt", 512), ("before", 32), ("new", 48), ("batch", 16)):
    parser.add_argument("--" + name, type=int, default=default)
args = parser.parse_args()


class Batch(ctypes.Structure):
    """llama_batch"""

    _fields_ = [("n", ctypes.c_int32)] + [(name, ctypes.c_void_p) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")]


class Settings(ctypes.Structure):
    """A structure of settings, larger than llama.cpp's, whose fields are found by their default values."""

    _fields_ = [("words", ctypes.c_int32 * 128)]


def library():
    if args.library:
        return ctypes.CDLL(args.library)
    import xllamacpp

    return ctypes.CDLL(os.path.join(os.path.dirname(xllamacpp.__file__), "xllamacpp.abi3.so"))


class Llama:
    def __init__(self, sequences, context):
        self.lib = lib = library()
        self.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        lib.llama_log_set(self.quiet, None)
        lib.llama_backend_init()
        for name in ("llama_model_default_params", "llama_context_default_params"):
            getattr(lib, name).restype = Settings
        for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab", "llama_get_memory"):
            getattr(lib, name).restype = ctypes.c_void_p
        lib.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
        lib.llama_get_logits_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Settings]
        lib.llama_init_from_model.argtypes = [ctypes.c_void_p, Settings]
        lib.llama_model_get_vocab.argtypes = lib.llama_vocab_n_tokens.argtypes = lib.llama_get_memory.argtypes = [ctypes.c_void_p]
        lib.llama_memory_clear.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        lib.llama_decode.argtypes = [ctypes.c_void_p, Batch]
        model = lib.llama_model_load_from_file(args.model.encode(), lib.llama_model_default_params())
        settings = lib.llama_context_default_params()
        words = settings.words
        # n_ctx, n_batch, n_ubatch, n_seq_max, ..., n_threads, n_threads_batch
        threads = next(i for i in range(4, 16) if words[i] == words[i + 1] == 4)
        if list(words[:4]) != [512, 2048, 512, 1]:
            sys.exit(f"llama.cpp has other default settings than expected: {list(words[:12])}")
        words[0], words[3], words[threads], words[threads + 1] = context * sequences, sequences, args.threads, args.threads
        self.context = lib.llama_init_from_model(model, settings)
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        if not self.context:
            sys.exit("llama.cpp made no context")

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def decode(self, rows):
        """rows: (token, position, sequence, whether its logits are wanted). Returns the likeliest tokens."""
        import numpy

        n = len(rows)
        tokens = (ctypes.c_int32 * n)(*[row[0] for row in rows])
        positions = (ctypes.c_int32 * n)(*[row[1] for row in rows])
        counts = (ctypes.c_int32 * n)(*[1] * n)
        ids = [ctypes.c_int32(row[2]) for row in rows]
        sequences = (ctypes.c_void_p * n)(*[ctypes.addressof(i) for i in ids])
        wanted = (ctypes.c_int8 * n)(*[row[3] for row in rows])
        at = [ctypes.addressof(x) for x in (tokens, positions, counts, sequences, wanted)]
        if self.lib.llama_decode(self.context, Batch(n, at[0], None, *at[1:])):
            sys.exit("llama_decode failed")
        best = []
        for i in range(n):
            if rows[i][3]:
                logits = self.lib.llama_get_logits_ith(self.context, i)
                best.append(int(numpy.ctypeslib.as_array(logits, (self.vocabulary,)).argmax()))
        return best


def prompt(sequence, count, vocabulary):
    return [(7919 * (i + 1) + 104729 * sequence) % vocabulary for i in range(count)]


def decoding(llama, sequences):
    llama.clear()
    nexts = []
    for sequence in range(sequences):
        tokens = prompt(sequence, args.before, llama.vocabulary)
        nexts += llama.decode([(token, i, sequence, i + 1 == len(tokens)) for i, token in enumerate(tokens)])
    begun = time.perf_counter()
    for step in range(args.new):
        nexts = llama.decode([(token, args.before + step, sequence, 1) for sequence, token in enumerate(nexts)])
    return args.new * sequences / (time.perf_counter() - begun)


def reading(llama):
    llama.clear()
    tokens = prompt(0, args.prompt, llama.vocabulary)
    begun = time.perf_counter()
    llama.decode([(token, i, 0, i + 1 == len(tokens)) for i, token in enumerate(tokens)])
    return args.prompt / (time.perf_counter() - begun)


def peer():
    alone = Llama(1, max(args.prompt, args.before + args.new) + 8)
    together = Llama(args.batch, args.before + args.new + 8)
    reading(alone)
    decoding(alone, 1)
    decoding(together, args.batch)
    print(json.dumps({"one sequence": decoding(alone, 1), f"{args.batch} sequences": decoding(together, args.batch), "prompt": reading(alone)}))


def ours():
    counts = [str(getattr(args, name)) for name in ("prompt", "before", "new", "batch")]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
    return json.loads(subprocess.check_output([args.ours, "--compared", args.model, *counts], env=environment, text=True))


def widen(source, target):
    """Writes the file again with its weights as bf16."""
    import gguf, numpy

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            element = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        kind = gguf.GGMLQuantizationType.BF16 if numbers.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def processor():
    with open("/proc/cpuinfo") as file:
        fields = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    flags = [flag for flag in known if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name')}, family {fields.get('cpu family')}, model {fields.get('model')}, {os.cpu_count()} cores, {' '.join(flags)}"


if args.peer:
    peer()
    sys.exit()
if not args.ours:
    parser.error("--ours is needed")
print(f"{processor()}; {args.threads} threads; {os.path.basename(args.model)}; load {os.getloadavg()[0]:.1f}")
if args.bf16:
    folder = tempfile.TemporaryDirectory()
    twin = os.path.join(folder.name, "bf16.gguf")
    widen(args.model, twin)
    args.model = twin
again = [sys.executable, __file__, "--peer", *sys.argv[1:], "--model", args.model]
rounds = []
for _ in range(args.rounds):
    rounds.append((ours(), json.loads(subprocess.check_output(again, text=True).splitlines()[-1])))
    print("dpo-lora:", *(f"{what} {speed:.1f}" for what, speed in rounds[-1][0].items()), "| llama.cpp:", *(f"{speed:.1f}" for speed in rounds[-1][1].values()), flush=True)
spread = lambda x, digits: f"min {min(x):.{digits}f}  median {statistics.median(x):.{digits}f}  max {max(x):.{digits}f}"
for what in rounds[0][0]:
    us, them = ([side[what] for side in sides] for sides in zip(*rounds))
    print(f"{what}: dpo-lora {spread(us, 1)} tokens/s; llama.cpp {spread(them, 1)}; ratio {spread([a / b for a, b in zip(us, them)], 2)}")
one, many = (list(rounds[0][0])[i] for i in (0, 1))
print(f"{many} against one, dpo-lora: {spread([us[many] / us[one] for us, _ in rounds], 2)}")
