"""Small random Hugging Face checkpoints, for tests: the same bytes everywhere, and no torch to make them."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.quantization.conversion.config_values import ConfigValues
from llamatelemetry.quantization.conversion.families import FAMILIES
from llamatelemetry.quantization.conversion.sizes import read_sizes
from llamatelemetry.quantization.testing import weights

__all__ = ["write_small_checkpoint"]

_CONFIG: Final = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_OF_FAMILY: Final[Mapping[str, Mapping[str, Any]]] = {
    "gemma2": {"tie_word_embeddings": True, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "gemma3": {"tie_word_embeddings": True, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "phi3": {"original_max_position_embeddings": 512},
}
_MODEL_TYPES: Final = {"MistralForCausalLM": "mistral", "Gemma3ForCausalLM": "gemma3_text"}
_SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MERGED: Final = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("1", "2"))
_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_small_checkpoint(
    folder: str | os.PathLike[str],
    architecture: str = "LlamaForCausalLM",
    *,
    dtype: str = "BF16",
    shards: int = 1,
    seed: int = 3,
    **config: Any,
) -> Path:
    """Writes a checkpoint of two blocks, a quarter of a megabyte, with a byte-level tokenizer.

    Args:
        folder: Where to; it is made.
        architecture: One of :data:`~llamatelemetry.quantization.conversion.families.FAMILIES`.
        dtype: ``F32``, ``F16`` or ``BF16`` of all tensors.
        shards: Files to spread the tensors over.
        seed: Another one, other weights.
        config: What ``config.json`` says instead; None leaves it out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    family = FAMILIES[architecture]
    values = {
        "architectures": [architecture],
        "model_type": _MODEL_TYPES.get(architecture, family.architecture),
        "vocab_size": len(tokenizer["model"]["vocab"]),
        **_CONFIG,
        **_OF_FAMILY.get(family.architecture, {}),
        **config,
    }
    values = {key: value for key, value in values.items() if value is not None}
    _write_json(folder / "config.json", values)
    _write_json(folder / "tokenizer.json", tokenizer)
    settings = {"eos_token": _SPECIAL[2], "bos_token": _SPECIAL[0], "chat_template": _TEMPLATE}
    _write_json(folder / "tokenizer_config.json", settings)
    _write_shards(folder, _tensors(architecture, values, seed), dtype, shards)
    return folder


def _tensors(architecture: str, config: Mapping[str, Any], seed: int) -> dict[str, npt.NDArray[np.float32]]:
    family = FAMILIES[architecture]
    sizes = read_sizes(ConfigValues(Path("config.json"), config), default_head=family.default_head)
    found = dict(family.outer)
    if config.get("tie_word_embeddings"):
        del found["lm_head"]
    for number in range(sizes.blocks):
        found |= {f"model.layers.{number}.{stem}": weight for stem, weight in family.block.items()}
    raw = np.random.PCG64(seed)
    tensors = {}
    for stem, weight in found.items():
        shape = tuple(sizes.named[size] for size in weight.shape)
        values = weights(raw, shape)
        # Norms are around one; where transformers adds the one, around zero.
        tensors[f"{stem}.weight"] = values + np.float32(1 - family.norm_shift) if len(shape) == 1 else values
        has_bias = config.get("attention_bias") or (family.architecture == "qwen2" and weight.name != "attn_output")
        if weight.bias and has_bias and weight.name.startswith("attn_"):
            tensors[f"{stem}.bias"] = weights(raw, shape[:1])
    return tensors


def _write_shards(folder: Path, tensors: Mapping[str, npt.NDArray[np.float32]], dtype: str, shards: int) -> None:
    names = list(tensors)
    places: dict[str, str] = {}
    for number in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number::shards]
        places |= dict.fromkeys(part, name)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = bytearray()
        for key in part:
            stored = _stored(tensors[key], dtype)
            place = [len(data), len(data) + len(stored)]
            header[key] = {"dtype": dtype, "shape": list(tensors[key].shape), "data_offsets": place}
            data += stored
        text = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data)
    if shards > 1:
        _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def _stored(values: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _tokenizer() -> dict[str, Any]:
    """Byte-level BPE of all bytes, a few merges and three marks."""
    vocabulary = {text: number for number, text in enumerate(_SPECIAL)}
    for text in (*_alphabet(), *(left + right for left, right in _MERGED)):
        vocabulary[text] = len(vocabulary)
    added = [
        {"id": number, "content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
        | {"single_word": False}
        for number, text in enumerate(_SPECIAL)
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in _MERGED]},
    }


def _alphabet() -> list[str]:
    """The letters of byte-level BPE: those of Latin-1 that can be seen, and more for the other bytes."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(code) for code in (*seen, *range(256, 256 + 256 - len(seen)))]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1))
