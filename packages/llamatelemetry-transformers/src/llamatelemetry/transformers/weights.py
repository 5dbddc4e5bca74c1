"""How many bytes of weights belong to which layer, summed from the tensors of a checkpoint.

Tensors are told apart by their names, such as ``model.layers.7.mlp.up_proj.weight``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.transformers.config import ModelConfig
from llamatelemetry.untrusted.safetensors_header import StoredTensor

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h)\.(\d{1,6})\.")
_OUTPUT_MATRICES: Final = frozenset({"lm_head", "embed_out"})
# What stands beside the layers, before and after them, as families spell it.
_EMBEDDINGS: Final = re.compile(r"(?:^|\.)(embed_tokens|word_embeddings|embed_in|wte)\.")
_LAST_NORMS: Final = frozenset({"norm", "final_layernorm", "final_layer_norm", "ln_f"})

_DTYPES: Final = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""Types in the words of safetensors to the same in the words of ``config.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The weights of a model, by where they are needed.

    Attributes:
        input_bytes: What comes before the first layer, or is beside them: embeddings, a vision tower.
        layer_bytes: What each layer takes.
        output_bytes: What comes after the last layer, without a copy of the embeddings.
        tied: True where the token embeddings are the output matrix too.
        parameters: How many weights there are; None where packing hides it.
        dtype: Type that most of them have, for example ``bfloat16``.
        assumptions: What was assumed to work them out, one sentence each; nothing where they are there.
    """

    input_bytes: int
    layer_bytes: tuple[int, ...]
    output_bytes: int
    tied: bool
    parameters: int | None
    dtype: str
    assumptions: tuple[str, ...] = ()


def sum_weights(path: Path, tensors: Sequence[StoredTensor], config: ModelConfig) -> Weights:
    """Adds up a checkpoint's tensors.

    Args:
        path: Where they were found, for errors.
        tensors: All of them, by whatever names.
        config: What ``config.json`` says.

    Raises:
        ModelFileError: They are not those of the layers that ``config.json`` tells of.
    """
    stem = _find_layers(path, tensors, config)
    beside = _parent(stem)
    has_head = any(_is_output_matrix(tensor) and _layer_of(tensor, stem) is None for tensor in tensors)
    tied = _is_tied(config, has_head=has_head)
    layer_bytes = [0] * config.layer_count
    input_bytes = output_bytes = parameters = 0
    elements: Counter[str] = Counter()
    for tensor in tensors:
        layer = _layer_of(tensor, stem)
        if tied and layer is None and _is_output_matrix(tensor):
            continue  # Some checkpoints hold the embeddings twice; memory will not.
        parameters += tensor.elements
        elements[tensor.dtype] += tensor.elements
        if layer is not None and layer < config.layer_count:
            layer_bytes[layer] += tensor.size_bytes
        elif layer is not None or _is_output_matrix(tensor) or _is_last_norm(tensor, beside):
            output_bytes += tensor.size_bytes
        else:
            input_bytes += tensor.size_bytes
    dtype = elements.most_common(1)[0][0]
    return Weights(
        input_bytes=input_bytes,
        layer_bytes=tuple(layer_bytes),
        output_bytes=output_bytes,
        tied=tied,
        parameters=None if config.quantization else parameters,
        dtype=_DTYPES.get(dtype, dtype.lower()),
    )


def _find_layers(path: Path, tensors: Sequence[StoredTensor], config: ModelConfig) -> str:
    """What the names of the language model's layers start with, such as ``model.layers.``.

    A vision tower has layers too. Those that count are as many as ``config.json`` tells of; of
    several such those beside the token embeddings, and then the largest.
    """
    found: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for tensor in tensors:
        if match := _LAYER.search(tensor.name):
            found[tensor.name[: match.start(1)]][int(match[1])] += tensor.size_bytes
    if not found:
        raise ModelFileError(path, "has no tensor that belongs to a layer, with a name such as model.layers.0.…")
    embedding = filter(None, (_EMBEDDINGS.search(tensor.name) for tensor in tensors))
    homes = {match.string[: match.start(1)] for match in embedding}
    likeliest = sorted(found, key=lambda stem: (_parent(stem) in homes, found[stem].total()), reverse=True)
    needed = set(range(config.layer_count))
    allowed = set(range(config.layer_count + config.predicted_ahead))
    for stem in likeliest:
        if needed <= found[stem].keys() <= allowed:
            return stem
    layers = found[likeliest[0]].keys()
    wrong = sorted(needed - layers) or sorted(layers - allowed)
    problem = "lacks" if needed - layers else "has"
    raise ModelFileError(
        path, f"{problem} {likeliest[0] + str(wrong[0])!r}, and config.json says num_hidden_layers={config.layer_count}"
    )


def _is_tied(config: ModelConfig, *, has_head: bool) -> bool:
    if config.tied is None:
        return config.family.tied if has_head else True
    return config.tied


def _layer_of(tensor: StoredTensor, stem: str) -> int | None:
    match = _LAYER.search(tensor.name)
    return int(match[1]) if match and tensor.name[: match.start(1)] == stem else None


def _is_output_matrix(tensor: StoredTensor) -> bool:
    return not _OUTPUT_MATRICES.isdisjoint(tensor.name.split("."))


def _is_last_norm(tensor: StoredTensor, beside: str) -> bool:
    name = tensor.name
    return name.startswith(beside) and name[len(beside) :].partition(".")[0] in _LAST_NORMS


def _parent(stem: str) -> str:
    """What the names of everything beside the layers start with: ``model.`` for ``model.layers.``."""
    return stem.removesuffix("layers.").removesuffix("h.")
