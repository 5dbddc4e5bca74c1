"""The sizes of a GGUF model, for whoever plans where it goes; registered as the model reader ``gguf``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from llamatelemetry.distributed.shape import LayerShape, ModelShape
from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.block_caches import (
    MAX_BLOCKS,
    BlockCache,
    block_caches,
    head_sizes,
    recurrent_blocks,
    unknown_caches,
)
from llamatelemetry.llama.gguf import GgufFile, Tensor, Unread, read_gguf
from llamatelemetry.llama.gguf_header import open_model_file
from llamatelemetry.llama.model_files import model_name
from llamatelemetry.llama.split_files import other_parts

_MAGIC: Final = b"GGUF"
_BLOCK: Final = re.compile(r"(?:^|\.)blk\.(\d+)\.")
# What llama.cpp's src/llama-arch.cpp counts as input, and what it computes with the first block.
_INPUT: Final = frozenset(("token_embd", "position_embd", "token_types", "per_layer_token_embd"))
_FIRST_BLOCK: Final = frozenset(
    (
        "per_layer_model_proj",
        "per_layer_proj_norm",
        "rope_factors_long",
        "rope_factors_short",
        "rope_freqs",
        "token_embd_norm",
    )
)


def read_shape(path: Path) -> ModelShape | None:
    """The sizes of the model in a GGUF file, and in its other parts where it is split; None for other files.

    Raises:
        ModelFileError: It is damaged, a part is missing, or it is no model that llama.cpp would run.
    """
    if not _is_gguf(path):
        return None
    model = read_gguf(path)
    parts = [model, *map(read_gguf, other_parts(model))]
    return _shape(parts[0], [tensor for part in parts for tensor in part.tensors])


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True  # Whatever else it turns out to be, the GGUF reader has the words for it.
    with open_model_file(path) as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _shape(model: GgufFile, tensors: Sequence[Tensor]) -> ModelShape:
    caches = block_caches(model)
    if model.architecture is None or model.embedding_length is None or caches is None:
        said = f"architecture {model.architecture!r}, {model.block_count} blocks, {model.head_count} heads"
        raise ModelFileError(
            model.path,
            f"does not say what llama.cpp needs to run it ({said}; at most {MAX_BLOCKS} blocks are possible)",
        )
    input_bytes, output_bytes, block_bytes = _weights(model.path, tensors, len(caches))
    names = {tensor.name for tensor in tensors}
    decodes = any(cache != BlockCache() for cache in caches)
    key, _ = head_sizes(model)
    return ModelShape(
        name=model.name or model_name(model.path),
        path=model.path,
        format="gguf",
        architecture=model.architecture,
        layers=tuple(
            LayerShape(
                weights_bytes=size,
                key_elements=cache.key_elements,
                value_elements=cache.value_elements,
                window=cache.window,
                state_bytes=cache.state_bytes,
            )
            for size, cache in zip(block_bytes, caches, strict=True)
        ),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        tied_output=decodes and "output.weight" not in names and "token_embd.weight" in names,
        embedding_length=model.embedding_length,
        vocabulary_size=_vocabulary_size(model, tensors),
        head_count=model.head_count or 0,
        context_length=model.context_length,
        parameters=sum(tensor.elements for tensor in tensors),
        quantization=model.quantization,
        feed_forward_length=_feed_forward_length(model),
        attention_length=max((model.head_count or 0) * key, _recurrent_length(model, len(caches))) or None,
        experts_used=max(chain(model.per_block("expert_used_count"), (1,))),
        assumptions=unknown_caches(model),
    )


def _weights(path: Path, tensors: Sequence[Tensor], blocks: int) -> tuple[int, int, list[int]]:
    """Bytes before the first block, after the last one, and of each."""
    before = after = 0
    each = [0] * blocks
    for tensor in tensors:
        if tensor.size_bytes is None:
            raise ModelFileError(
                path, f"has tensors of a type that is not known here ({tensor.type}): update this plugin"
            )
        block = _BLOCK.search(tensor.name)
        stem = tensor.name.partition(".")[0]
        if block is not None and int(block[1]) < blocks:
            each[int(block[1])] += tensor.size_bytes
        elif stem in _FIRST_BLOCK:
            each[0] += tensor.size_bytes
        elif stem in _INPUT:
            before += tensor.size_bytes
        else:
            after += tensor.size_bytes
    return before, after, each


def _vocabulary_size(model: GgufFile, tensors: Sequence[Tensor]) -> int:
    # The logits are as many as the output matrix has rows, which is what memory depends on.
    for name in ("output.weight", "token_embd.weight"):
        for tensor in tensors:
            if tensor.name == name and len(tensor.shape) == 2:
                return tensor.shape[1]
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    return model.own("vocab_size") or (tokens.count if isinstance(tokens, Unread) else 0)


def _feed_forward_length(model: GgufFile) -> int | None:
    """The widest that a token gets between the halves of a feed-forward layer."""
    dense = max(model.per_block("feed_forward_length"), default=0)
    used = max(model.per_block("expert_used_count"), default=0)
    one = max(model.per_block("expert_feed_forward_length"), default=dense if used else 0)
    shared = model.own("expert_shared_feed_forward_length") or one * (model.own("expert_shared_count") or 0)
    return max(dense, used * one + shared if used else 0) or None


def _recurrent_length(model: GgufFile, blocks: int) -> int:
    """The widest that a token gets in a recurrent block, as far as it follows from the state's sizes."""
    if not any(recurrent_blocks(model, blocks)):
        return 0
    groups, state = model.own("ssm.group_count") or 0, model.own("ssm.state_size") or 0
    return 2 * (model.own("ssm.inner_size") or 0) + 2 * groups * state
