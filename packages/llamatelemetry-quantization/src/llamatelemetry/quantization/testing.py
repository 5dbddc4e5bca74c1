"""Small random models that real llama.cpp loads, for tests: the same bytes everywhere, at every call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["write_small_importance", "write_small_model"]

WIDTH: Final = 256
"""Numbers in a row: what the K types need."""
FEED_FORWARD: Final = 512
VOCABULARY: Final = 512
_HEADS: Final = 4
_FIRST_PIECES: Final = ("<unk>", "<s>", "</s>")

Floats = npt.NDArray[np.float32]


def write_small_model(
    path: str | os.PathLike[str],
    *,
    blocks: int = 8,
    kv_heads: int = 2,
    experts: int = 0,
    tied: bool = False,
    dtype: str = "F16",
    seed: int = 1,
) -> Path:
    """Writes a Llama of 256 numbers a row, with weights that look like a model's and say nothing.

    Args:
        path: The file.
        blocks: Transformer blocks, each of half a million weights.
        kv_heads: Heads of keys and values, of 1, 2 or 4; queries have four.
        experts: Experts in each block, of which two are used; 0 for none.
        tied: Whether the output is the embedding, as in small models.
        dtype: ``F32``, ``F16`` or ``BF16`` of the matrices.
        seed: Another one, other weights.
    """
    import gguf

    path = Path(path)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // _HEADS)
    writer.add_vocab_size(VOCABULARY)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    _add_vocabulary(writer)
    stored = gguf.GGMLQuantizationType[dtype]
    raw = np.random.PCG64(seed)
    for name, shape in _shapes(blocks, kv_heads, experts, tied=tied).items():
        values = _ones(shape) if "norm" in name else weights(raw, shape)
        kept = len(shape) == 1 or "gate_inp" in name
        kind = gguf.GGMLQuantizationType.F32 if kept else stored
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_small_importance(path: str | os.PathLike[str], model: str | os.PathLike[str], *, seed: int = 2) -> Path:
    """Writes an importance matrix for every matrix of a model but its embedding, in GGUF, as llama-imatrix does."""
    import gguf

    path = Path(path)
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["small.txt"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 512)
    raw = np.random.PCG64(seed)
    for tensor in gguf.GGUFReader(Path(model)).tensors:
        shape = [int(size) for size in tensor.shape]
        if len(shape) > 1 and not tensor.name.startswith("token_embd"):
            experts = shape[2] if len(shape) > 2 else 1
            writer.add_tensor(f"{tensor.name}.in_sum2", weights(raw, (experts, shape[0])) ** 2 + np.float32(0.01))
            writer.add_tensor(f"{tensor.name}.counts", np.full((experts, 1), 2048, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights(raw: np.random.PCG64, shape: tuple[int, ...]) -> Floats:
    """Numbers around zero, of a spread like a model's weights: whole numbers added up, so exact everywhere."""
    count = int(np.prod(shape))
    parts = raw.random_raw(count).view(np.uint16).reshape(count, 4).astype(np.int64)
    values: Floats = (parts.sum(axis=1) - 2 * 65535).astype(np.float32) / np.float32(2**20)
    return values.reshape(shape)


def _ones(shape: tuple[int, ...]) -> Floats:
    return np.ones(shape, np.float32)


def _add_vocabulary(writer: Any) -> None:
    """A vocabulary that has every byte and little else."""
    pieces = [*_FIRST_PIECES, *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [f"▁w{number}" for number in range(VOCABULARY - len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*pieces, *words])
    writer.add_token_scores([0.0] * len(pieces) + [-float(number) for number in range(len(words))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _shapes(blocks: int, kv_heads: int, experts: int, *, tied: bool) -> dict[str, tuple[int, ...]]:
    """Names of the tensors to their sizes, the number of rows before their length."""
    shared = WIDTH // _HEADS * kv_heads
    block = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (shared, WIDTH),
        "attn_v": (shared, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
    }
    wide, narrow = (FEED_FORWARD, WIDTH), (WIDTH, FEED_FORWARD)
    if experts:
        block["ffn_gate_inp"] = (experts, WIDTH)
        block |= {
            "ffn_gate_exps": (experts, *wide),
            "ffn_up_exps": (experts, *wide),
            "ffn_down_exps": (experts, *narrow),
        }
    else:
        block |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": narrow}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    if not tied:
        shapes["output.weight"] = (VOCABULARY, WIDTH)
    for number in range(blocks):
        shapes |= {f"blk.{number}.{name}.weight": shape for name, shape in block.items()}
    return shapes
