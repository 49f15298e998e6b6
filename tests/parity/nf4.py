"""bitsandbytes' NF4 with double quantisation of a few matrices: tests/fixtures/nf4.json.

    pip install bitsandbytes numpy torch
    python tests/parity/nf4.py
"""

import base64
import hashlib
import json
import pathlib

import bitsandbytes.functional as bnb
import torch

torch.manual_seed(3)
cases = []
for shape in [(66, 256), (3, 64)]:
    weight = (torch.randn(shape) * 0.05).to(torch.bfloat16)
    weight[0, :3] *= 9
    codes, state = bnb.quantize_4bit(weight.float(), compress_statistics=True, quant_type="nf4")
    magnitudes = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    cases.append({
        "shape": list(shape),
        # bf16, little-endian
        "weight": base64.b64encode(weight.view(torch.int16).numpy().tobytes()).decode(),
        "codes_sha256": hashlib.sha256(codes.numpy().tobytes()).hexdigest(),
        "magnitudes": [float(x) for x in magnitudes.flatten()],
    })
path = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "nf4.json"
path.write_text(json.dumps(cases))
