"""Makes the seeds of every fuzz target anew: small files, valid and nearly so. `python fuzz/seeds.py` from the package's root."""
import json, os, struct

ROOT = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(ROOT, "..", "tests", "fixtures")


def put(target, name, data):
    directory = os.path.join(ROOT, "corpus", target)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "seed-" + name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def safetensors(tensors, metadata=None, align=False):
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 if align else 0)
    return struct.pack("<Q", len(text)) + text + data


def floats(n):
    return struct.pack(f"<{n}f", *[0.25 * (i % 7) - 0.5 for i in range(n)])


two = {"a": ("F32", [2, 3], floats(6)), "b": ("BF16", [4], b"\x80\x3f" * 4)}
put("safetensors", "two", safetensors(two, {"format": "pt"}, True))
put("safetensors", "misaligned", safetensors({"x": ("F16", [1, 1, 3], b"\0\x3c" * 3)}))
put("safetensors", "empty-tensor", safetensors({"x": ("F32", [0, 5], b""), "y": ("I64", [], b"\0" * 8)}))
put("safetensors", "header-too-long", struct.pack("<Q", 1 << 40) + b"{}")
put("safetensors", "overlap", safetensors(two).replace(b"[24,32]", b"[16,24]"))

put("index", "two", json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
put("index", "escape", json.dumps({"weight_map": {"a": "../a.safetensors"}}))
put("index", "missing", json.dumps({"weight_map": {"a": "a.safetensors", "c": "b.safetensors"}}))


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(pairs, tensors, version=3):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    data = b""
    for name, shape, kind, values in tensors:
        out += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", d) for d in shape)
        out += struct.pack("<IQ", kind, len(data))
        data += values + b"\0" * (-len(values) % 32)
    return out + b"\0" * (-len(out) % 32) + data


pairs = [
    text("general.architecture") + struct.pack("<I", 8) + text("llama"),
    text("general.alignment") + struct.pack("<II", 4, 32),
    text("llama.rope.freq_base") + struct.pack("<If", 6, 1e4),
    text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("<s>") + text("a"),
    text("nested") + struct.pack("<IIQIQ", 9, 9, 1, 4, 2) + struct.pack("<II", 1, 2),
]


def strings(key, values):
    return text(key) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def numbers(key, kind, form, values):
    return text(key) + struct.pack("<IIQ", 9, kind, len(values)) + struct.pack(f"<{len(values)}{form}", *values)


def base(model, tokens, *more):
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": 8, "feed_forward_length": 8, "attention.head_count": 2, "attention.head_count_kv": 1, "vocab_size": len(tokens)}
    found = [text("general.architecture") + struct.pack("<I", 8) + text("llama"), text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)]
    found += [text("llama." + key) + struct.pack("<II", 4, value) for key, value in sizes.items()]
    found += [text("tokenizer.ggml.model") + struct.pack("<I", 8) + text(model), strings("tokenizer.ggml.tokens", tokens)]
    found += [text(f"tokenizer.ggml.{name}_token_id") + struct.pack("<II", 4, i) for i, name in enumerate(["bos", "eos"])]
    return gguf(found + list(more), [])


kinds = numbers("tokenizer.ggml.token_type", 5, "i", [3, 3, 1, 1, 1, 6])
words = ["<s>", "</s>", "a", "b", "ab", "<0x0A>"]
put("gguf_model", "byte-level", base("gpt2", words[:5], numbers("tokenizer.ggml.token_type", 5, "i", [3, 3, 1, 1, 1]), strings("tokenizer.ggml.merges", ["a b"]), text("tokenizer.ggml.pre") + struct.pack("<I", 8) + text("llama-bpe")))
put("gguf_model", "sentencepiece", base("llama", words, kinds, numbers("tokenizer.ggml.scores", 6, "f", [0, 0, -1, -2, -3, 0]), text("tokenizer.ggml.add_bos_token") + struct.pack("<I?", 7, True)))
put("gguf_model", "no-kinds", base("gpt2", words, strings("tokenizer.ggml.merges", ["a", "b c d"]), text("tokenizer.chat_template") + struct.pack("<I", 8) + text("{{ bos_token }}")))
put("gguf", "two", gguf(pairs, [("w", [4, 2], 0, floats(8)), ("q", [32], 8, b"\0\x3c" + bytes(range(32)))]))
put("gguf", "k-quant", gguf(pairs[:1], [("k", [256], 12, bytes(i % 251 for i in range(144)))]))
put("gguf", "v2-empty", gguf([], [], 2))
put("gguf", "counts", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))


def parted(first, second):
    first = first if isinstance(first, bytes) else first.encode()
    return struct.pack("<H", len(first)) + first + second


def adapter(rank, inputs, outputs, module, **more):
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 5, "target_modules": ["q_proj"], "bias": "none"}
    name = f"base_model.model.{module}"
    pair = {f"{name}.lora_A.weight": ("F32", [rank, inputs], floats(rank * inputs)), f"{name}.lora_B.weight": ("F32", [outputs, rank], floats(outputs * rank))}
    return parted(json.dumps(config | more), safetensors(pair, {"format": "pt"}))


query = "model.layers.0.self_attn.q_proj"
put("adapter", "plain", adapter(2, 32, 48, query))
put("adapter", "patterns", adapter(3, 32, 48, query, r=2, rank_pattern={"layers.0.self_attn.q_proj": 3}, alpha_pattern={"q_proj": 7}, use_rslora=True))
put("adapter", "regex", adapter(2, 32, 48, query, target_modules=".*\\.(q|v)_proj", lora_bias=False))
put("adapter", "wrong-shape", adapter(2, 31, 48, query))

state = {
    "step": 3, "optimizer_steps": 3, "sampler": {"epoch": 0, "position": 6},
    "window": {"metrics": {"pairs": 0, "loss": 0.0, "reward_chosen": 0.0, "reward_rejected": 0.0, "correct": 0, "logp_chosen": 0.0, "logp_rejected": 0.0},
               "grad_norm": 0.0, "steps": 0, "tokens": 0, "seconds": 0.0},
    "best": {"value": 0.5, "step": 2}, "evaluations_since_best": 1, "skipped_in_a_row": 0,
    "watch": {"recent": {"pairs": 0, "loss": 0.0, "reward_chosen": 0.0, "reward_rejected": 0.0, "correct": 0, "logp_chosen": 0.0, "logp_rejected": 0.0},
              "pairs": 0, "correct": 0.0, "told": ["kl"]},
    "config": "seed: 1\n", "data": "00", "reference": "00",
}
put("checkpoint", "manifest", b"\0" + json.dumps({"state.json": "00", "optimizer.safetensors": "00"}).encode())
put("checkpoint", "state", b"\1" + json.dumps(state).encode())
moments = {"exp_avg": ("F32", [160], floats(160)), "exp_avg_sq": ("F32", [160], floats(160))}
put("checkpoint", "moments", b"\2" + safetensors(moments))

entry = bytes(range(32)) + struct.pack("<Idd", 2, -1.5, -2.25)
put("reference", "two", b"dporef 1" + entry + bytes(32) + struct.pack("<I", 0))
put("reference", "count", b"dporef 1" + bytes(32) + struct.pack("<I", 0xFFFFFFFF) + bytes(8))
put("reference", "other-version", b"dporef 9" + entry)

for family in sorted(os.listdir(os.path.join(FIXTURES, "models"))):
    with open(os.path.join(FIXTURES, "models", family, "config.json")) as f:
        put("config_json", family, json.dumps(json.load(f), separators=(",", ":")))
put("config_json", "layers", '{"model_type":"llama","hidden_size":4,"num_attention_heads":1,"intermediate_size":4,"vocab_size":4,"max_position_embeddings":4,"num_hidden_layers":2000000000,"hidden_act":"silu","rms_norm_eps":1e-5}')
put("config_json", "head", '{"model_type":"llama","hidden_size":4,"num_attention_heads":1,"head_dim":2000000000,"intermediate_size":4,"vocab_size":4,"max_position_embeddings":4,"num_hidden_layers":1,"hidden_act":"silu","rms_norm_eps":1e-5}')

line = {"prompt": "The film is", "chosen": " good.", "rejected": " bad.", "label": 0.75}
chat = {"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "What"}], "tools": [{"a": None}], "chat_template_kwargs": {"x": 1}}
put("records", "lines", b"\0" + "\n".join(json.dumps(x) for x in (line, chat)).encode())
put("records", "array", b"\1" + json.dumps([line, chat]).encode())
put("records", "broken", b"\0\xef\xbb\xbf{\"prompt\": \"a\", \"chosen\": 3}\n[[[[\n{\"\xff")
put("records", "deep", b"\1" + b"[" * 200)

schemas = os.path.join(FIXTURES, "schemas")
for name in sorted(os.listdir(schemas)):
    if not name.endswith(".expected.jsonl"):
        with open(os.path.join(schemas, name)) as f:
            put("records", name.removesuffix(".jsonl"), "\0" + f.read())
put("records", "encoded", "\0" + json.dumps({"prompt": "q", "chosen": json.dumps(chat["chosen"]), "rejected": "[{'role': 'user', 'content': 'q'}]"}))
put("records", "nested", "\0" + json.dumps({"history": eval("[" * 60 + "'x y'" + "]" * 60), "chosen": "a b", "rejected": "a c"}))

rows = "\n" + "\n".join(json.dumps(x) for x in (dict(line, score=3, meta={"a": [1, 2]}), {"score": "3"}, {"meta": {"a": [{"b": 1}, {"b": 2}]}}))
put("filter", "scores", "score - 1 >= 2 and len(prompt) > 3" + rows)
put("filter", "lists", "max(meta.a) > min(meta.a.b) or has(meta.b)" + rows)
put("filter", "texts", "not (prompt + 'x' == \"a\\\"b\") or `a b`.c != null" + rows)
put("filter", "deep", "(" * 100 + "1" + ")" * 100 + rows)
put("filter", "nots", "not " * 2000 + "true" + rows)
put("filter", "sums", "1 + " * 2000 + "1 == 1e308 * 10" + rows)
put("filter", "renamed", "{meta.a.0}score / 0 > 1" + rows)
put("filter", "broken", "\"abc" + rows)

put("run_config", "minimal", "seed=3\nmodel: {base: m}\ndata: {train: d.jsonl}\n")
with open(os.path.join(ROOT, "..", "configs", "example.yaml")) as f:
    put("run_config", "example", "".join(l.split("  #")[0].rstrip() + "\n" for l in f if not l.startswith("#")))
put("run_config", "stages", "output_dir: o\nmodel: {base: m}\ndata: {train: p}\nobjective: {beta: 0.3}\nstages:\n  - preferred_ft\n  - name: dpo\n    adapter: stack\n    lora: {r: 2}\n    train:\n      max_steps: 3\n  - {name: again, objective: {loss_type: [ipo, sft], loss_weights: [1, 0.1]}}\n")
put("run_config", "aliases", "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nmodel: {base: *c}\n")
put("run_config", "patterns", "lora.rank_pattern.x=4\nmodel: {base: m}\ndata: {train: [a, b], eval: 0.5}\nlora: {rank_pattern: {a: 2}, target_modules: '.*'}\n")

put("template", "loop", "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}")
put("template", "methods", "{% set ns = namespace(x='a-b') %}{{ ns.x.split('-')[1].upper() }}{{ messages | length }}{{ messages[0].content.find('b') }}{{ strftime_now('%d %b %Y') }}{{ {'a': [1, none]} | tojson(indent=2) }}")
put("template", "macro", "{% macro f(x) %}{% if x > 0 %}{{ f(x - 1) }}{% else %}{{ raise_exception('no') }}{% endif %}{% endmacro %}{{ f(3) }}")
put("template", "loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}")
put("template", "repeat", "{{ 'aaaaaaaaaaaaaaaa' * 4000000000 }}")

added = lambda i, c: {"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
small = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(0, "<s>"), added(1, "</s>")], "normalizer": None,
         "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}, "post_processor": None,
         "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
         "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                   "byte_fallback": False, "ignore_merges": False, "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4}, "merges": [["a", "b"]]}}
put("tokenizer", "bpe", parted('{"eos_token":"</s>","add_bos_token":true,"bos_token":{"content":"<s>"}}', json.dumps(small).encode()))
unigram = dict(small, pre_tokenizer={"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}, decoder=None,
               model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}, added_tokens=[])
put("tokenizer", "unigram", parted("{}", json.dumps(unigram).encode()))
spelled = dict(small, model={"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}, normalizer={"type": "NFC"}, added_tokens=[])
put("tokenizer", "words", parted("{}", json.dumps(spelled).encode()))

parquet = os.path.join(FIXTURES, "parquet")
for name in ["pairs-none", "pairs-zstd", "pairs-gzip", "types", "required", "old", "encodings", "brotli", "empty"]:
    with open(os.path.join(parquet, name + ".parquet"), "rb") as f:
        put("parquet", name, f.read())
for name, page in [("v1", "1.0"), ("v2", "2.0")]:
    # Without pyarrow, the seeds stay as they are.
    try:
        import pyarrow as pa, pyarrow.parquet as pq
    except ImportError:
        break
    table = pa.table({"a": [["x", None], None, []], "b": [1.5, None, 2]})
    pq.write_table(table, os.path.join(ROOT, "corpus", "parquet", "seed-" + name), data_page_version=page, compression="none", store_schema=False, write_statistics=False)

put("csv", "plain", "\0prompt,chosen,rejected\na,b,c\n")
put("csv", "quoted", "\0\ufeffprompt,\"cho\"\"sen\",rejected\r\n\"a\nb\",\"\",c\r\n\r\nd,e,f")
put("csv", "tabs", "\1prompt\tchosen\trejected\na\tb,x\tc\n")
put("csv", "open", "\0prompt,chosen\n\"a,b\nc,d\n")
put("csv", "ragged", "\0a,b\n1\n1,2,3\n,\n")
put("csv", "names", "\0a,a,\n1,2,3\n")
put("csv", "semicolons", "\0a;b\n1;2\n")

both = json.dumps(line) + "\n" + json.dumps(chat) + "\n"
put("json", "lines", "\1" + both)
put("json", "array", "\0[" + json.dumps(line) + ",\n" + json.dumps(chat) + "]")
put("json", "wrapped", "\0" + json.dumps({"version": 1, "data": [line, chat]}, indent=1))
put("json", "two-arrays", "\0" + json.dumps({"train": [line], "test": [line]}))
put("json", "nan", "\1{\"a\": NaN, \"b\": [-Infinity], \"c\": \"\\ud83d\"}\n")
put("json", "cut", "\1{\"a\": \n{\"a\": 1}\n")
put("json", "deep", "\0" + "[{\"a\":" * 200)
put("json", "utf-16", b"\0\xff\xfe{\0")
import gzip
put("json", "gzip", b"\1" + gzip.compress(both.encode(), mtime=0))
put("json", "gzip-twice", b"\1" + gzip.compress(gzip.compress(both.encode(), mtime=0), mtime=0))
# A zstd frame with one raw block.
put("json", "zstd", b"\1\x28\xb5\x2f\xfd\x20" + bytes([len("{}\n")]) + b"\x19\0\0{}\n")
put("json", "csv", "\0a,b\n1,2\n")


def field(number, kind, data):
    """A field of a protocol buffer: 0 a number, 2 bytes, 5 four bytes."""
    def varint(n):
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])
    return varint(number << 3 | kind) + (varint(data) if kind == 0 else varint(len(data)) + data if kind == 2 else data)


def piece(text, score, kind):
    return field(1, 2, field(1, 2, text.encode()) + field(2, 5, struct.pack("<f", score)) + field(3, 0, kind))


words = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3)] + [(f"<0x{i:02X}>", 0, 6) for i in range(256)] + [("\u2581", -1, 1), ("a", -2, 1), ("\u2581a", -1.5, 1)]
for name, model in [("unigram", 1), ("bpe", 2)]:
    trainer = field(2, 2, field(3, 0, model) + field(35, 0, 1) + field(40, 0, 0) + field(41, 0, 1) + field(42, 0, 2))
    put("vocabulary", name, b"\0" + b"".join(piece(*word) for word in words) + trainer + field(3, 2, field(1, 2, b"identity") + field(3, 0, 1)))
put("vocabulary", "cut", b"\0" + b"".join(piece(*word) for word in words)[:-3])
import base64
token = lambda rank, text: {"rank": rank, "token_bytes": base64.b64encode(text).decode(), "token_str": text.decode("utf-8", "replace")}
tekken = {"config": {"pattern": "[^\\r\\n]+", "num_vocab_tokens": 257, "default_vocab_size": 260, "default_num_special_tokens": 3, "version": "v3"},
          "vocab": [token(i, bytes([i])) for i in range(256)] + [token(256, b"ab")],
          "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(["<unk>", "<s>", "</s>"])]}
put("vocabulary", "tekken", "\1" + json.dumps(tekken, separators=(",", ":")))
put("vocabulary", "tekken-short", "\1" + json.dumps(dict(tekken, vocab=tekken["vocab"][:3])))


def tokens(words, entries, header):
    header = json.dumps(header).encode()
    data = struct.pack(f"<{len(words)}I", *words) + b"\0" * (len(words) % 2 * 4) + entries + header
    return b"dpodata1" + data + struct.pack("<QQQ", len(words), len(entries), len(header))


def entry(offset, prompt, completions):
    return bytes(32) + struct.pack("<QQQIIIfIIIIII", offset, 1, 0, 0, 0, 0, 1.0, prompt, completions, 4, 6, 2, 3)


put("dataset", "one", tokens([1, 1, 5, 6, 7], entry(0, 1, 2), {"files": ["a.jsonl"], "note": ""}))
put("dataset", "none", tokens([], b"", {"files": [], "note": "x"}))
put("dataset", "offset", tokens([1, 1, 5, 6], entry(1 << 60, 1, 2), {"files": [], "note": ""}))
