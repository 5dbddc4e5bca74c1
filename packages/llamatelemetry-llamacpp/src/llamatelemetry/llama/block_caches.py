"""What each block of a model keeps of a token, and for how long: llama.cpp's rules, read off the metadata.

The sources are its ``src/llama-hparams.cpp`` (sizes), ``create_memory`` in ``src/llama-model.cpp``
(which block has which cache) and ``load_arch_hparams`` in ``src/models/`` (which blocks have a sliding
window: most architectures have that in the program and not in the file). What is not known here is
counted as full attention, which takes the most memory, and is said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llamatelemetry.llama.gguf import GgufFile

MAX_BLOCKS: Final = 512
"""LLAMA_MAX_LAYERS in llama.cpp's src/llama-hparams.h."""

_F32_BYTES: Final = 4

# Read a text at once and generate nothing, so they keep nothing.
_WITHOUT_CACHE: Final = frozenset(
    (
        "bert",
        "clef",
        "dream",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llada",
        "llada-moe",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "rnd1",
        "t5encoder",
        "wavtokenizer-dec",
    )
)
# The file names a window and llama.cpp does not use it.
_WINDOW_UNUSED: Final = frozenset(("phi3", "phimoe", *_WITHOUT_CACHE))
_RECURRENT: Final = frozenset(("arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"))
_ATTENTION_BESIDE_STATE: Final = frozenset(("falcon-h1",))
_RECURRENT_BY_INTERVAL: Final = frozenset(("qwen35", "qwen35moe", "qwen3next"))
_DEFAULT_FULL_ATTENTION_INTERVAL: Final = 4
# Keep figures of their own beside keys and values, and layouts of their own.
_LAID_OUT_OTHERWISE: Final = frozenset(("deepseek4", "dflash", "gemma4-assistant"))


@dataclass(frozen=True, slots=True)
class _Windows:
    """Which blocks look back at a window: all but the last, or the first, of each ``period``."""

    period: int
    first_is_full: bool = False
    assumed: int | None = None
    """The window where the file names none; None for none."""
    fixed: int | None = None
    """The window whatever the file names, unless that is 0."""
    only_with_blocks: int | None = None


_WINDOWS: Final = {
    "afmoe": _Windows(4),
    "cohere2": _Windows(4),
    "cohere2moe": _Windows(4, first_is_full=True),
    "exaone-moe": _Windows(4),
    "exaone4": _Windows(4, assumed=4096, only_with_blocks=64),
    "gemma2": _Windows(2, assumed=4096),
    "gemma3": _Windows(6),
    "gemma3n": _Windows(5),
    "gpt-oss": _Windows(2),
    "laguna": _Windows(4, first_is_full=True),
    "llama4": _Windows(4, assumed=8192, fixed=8192),
    "mellum": _Windows(4),
    "muse-glimmer": _Windows(4),
    "olmo2": _Windows(4),
    "plamo3": _Windows(8),
    "smallthinker": _Windows(4, first_is_full=True, fixed=4096),
}
_WINDOWS_IN_ALL_ATTENTION: Final = frozenset(("lfm2",))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCache:
    """What one block keeps.

    Attributes:
        key_elements: Numbers that one token adds to its keys.
        value_elements: Numbers that one token adds to its values.
        window: Tokens whose keys and values it needs; None for all.
        state_bytes: Bytes per sequence that do not grow with tokens.
    """

    key_elements: int = 0
    value_elements: int = 0
    window: int | None = None
    state_bytes: int = 0


def block_caches(model: GgufFile) -> tuple[BlockCache, ...] | None:
    """What each block of a model keeps, in order; None if the file does not say enough."""
    blocks, width = model.block_count, model.embedding_length
    if not blocks or blocks > MAX_BLOCKS or not width:
        return None
    if model.architecture in _WITHOUT_CACHE:
        return (BlockCache(),) * blocks
    recurrent = recurrent_blocks(model, blocks)
    heads = _kv_heads(model, blocks)
    if heads is None:
        if not all(recurrent):
            return None
        heads = (0,) * blocks
    state_bytes = _state_bytes(model, width)
    windows = _windows(model, blocks, recurrent)
    with_attention = _with_attention(model, blocks, recurrent)
    caches = []
    for block in range(blocks):
        window = windows[block]
        key, value = _head_sizes(model, windowed=window is not None) if with_attention[block] else (0, 0)
        caches.append(
            BlockCache(
                key_elements=key * heads[block] + (model.own("attention.indexer.key_length") or 0) * bool(key),
                value_elements=value * heads[block],
                window=window,
                state_bytes=state_bytes if recurrent[block] else 0,
            )
        )
    return tuple(caches)


def unknown_caches(model: GgufFile) -> tuple[str, ...]:
    """What :func:`block_caches` had to assume of a model, one sentence each."""
    said = []
    architecture, window = model.architecture, model.own("attention.sliding_window")
    patterned = isinstance(model.metadata.get(f"{architecture}.attention.sliding_window_pattern"), tuple)
    if window and not patterned and architecture not in _WINDOWS.keys() | _WINDOW_UNUSED | _WINDOWS_IN_ALL_ATTENTION:
        said.append(
            f"It names a sliding window of {window} tokens, and which layers of {architecture} have one is not known "
            "here: all are counted as full attention, which takes at least as much memory."
        )
    if architecture in _LAID_OUT_OTHERWISE:
        said.append(f"{architecture} lays out its cache in a way that is not known here: its size is a guess.")
    return tuple(said)


def recurrent_blocks(model: GgufFile, blocks: int) -> tuple[bool, ...]:
    """Which blocks keep a state instead of, or beside, keys and values."""
    architecture = model.architecture or ""
    if architecture in _RECURRENT | _ATTENTION_BESIDE_STATE:
        return (True,) * blocks
    trunk = blocks - (model.own("nextn_predict_layers") or 0)
    if architecture in _RECURRENT_BY_INTERVAL:
        listed = model.per_block("attention.recurrent_layers")
        if len(listed) == blocks:
            return tuple(bool(flag) for flag in listed)
        interval = model.own("full_attention_interval") or _DEFAULT_FULL_ATTENTION_INTERVAL
        return tuple(block < trunk and (block + 1) % interval != 0 for block in range(blocks))
    if not _state_bytes(model, model.embedding_length or 0):
        return (False,) * blocks
    heads, feed_forward = model.per_block("attention.head_count_kv"), model.per_block("feed_forward_length")
    if len(heads) != blocks:
        return (False,) * blocks
    # In Nemotron-H a block is one of three things; in the others every block has a feed-forward half.
    mixed = architecture.startswith("nemotron_h") and len(feed_forward) == blocks
    return tuple(block < trunk and heads[block] == 0 and not (mixed and feed_forward[block]) for block in range(blocks))


def _with_attention(model: GgufFile, blocks: int, recurrent: Sequence[bool]) -> tuple[bool, ...]:
    """Which blocks have keys and values of their own."""
    own = blocks - (model.own("attention.shared_kv_layers") or 0)
    if model.architecture == "gemma3n":
        own = 20  # Fixed in llama.cpp; the blocks after them use those of the last of each kind.
    # Blocks that only guess further tokens are no part of the trunk, which is what a server runs.
    own = min(own, blocks - (model.own("nextn_predict_layers") or 0))
    beside = model.architecture in _ATTENTION_BESIDE_STATE
    return tuple(block < own and (beside or not recurrent[block]) for block in range(blocks))


def _windows(model: GgufFile, blocks: int, recurrent: Sequence[bool]) -> tuple[int | None, ...]:
    architecture = model.architecture or ""
    named = model.metadata.get(f"{architecture}.attention.sliding_window")
    window = model.own("attention.sliding_window")
    rule = _WINDOWS.get(architecture)
    if architecture in _WINDOW_UNUSED:
        return (None,) * blocks
    if architecture in _WINDOWS_IN_ALL_ATTENTION:
        return tuple(None if state else window for state in recurrent)
    if rule is not None and named != 0:
        window = rule.fixed if rule.fixed and (window or rule.assumed) else window or rule.assumed
        if rule.only_with_blocks not in {None, blocks}:
            window = None
    if window is None:
        return (None,) * blocks
    pattern = model.metadata.get(f"{architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return tuple(window if flag else None for flag in pattern) if len(pattern) == blocks else (None,) * blocks
    if rule is None:
        return (None,) * blocks
    period = model.own("attention.sliding_window_pattern") or rule.period
    full = 0 if rule.first_is_full else period - 1
    return tuple(None if block % period == full else window for block in range(blocks))


def _kv_heads(model: GgufFile, blocks: int) -> tuple[int, ...] | None:
    heads = model.per_block("attention.head_count_kv") or model.per_block("attention.head_count")
    if not heads:
        return None
    return heads if len(heads) == blocks else (heads[0],) * blocks


def head_sizes(model: GgufFile) -> tuple[int, int]:
    """Numbers in a key and in a value of one head, in blocks without a window; 0 where there are no heads."""
    return _head_sizes(model, windowed=False)


def _head_sizes(model: GgufFile, *, windowed: bool) -> tuple[int, int]:
    heads = model.per_block("attention.head_count")
    # llama.cpp takes the first block's, and a model whose first block has none says the sizes itself.
    divisor = next((count for count in heads if count), 0)
    even = (model.embedding_length or 0) // divisor if divisor else 0
    key = model.own("attention.key_length") or even
    value = model.own("attention.value_length") or even
    if windowed:
        key = model.own("attention.key_length_swa") or key
        value = model.own("attention.value_length_swa") or value
    if model.own("attention.key_length_mla") and model.own("attention.value_length_mla"):
        value = 0  # Compressed attention reads its values out of its keys.
    return key, value


def _state_bytes(model: GgufFile, width: int) -> int:
    """Bytes that one sequence keeps in one recurrent block: rows for the convolution, then the state."""
    kernel, inner = model.own("ssm.conv_kernel") or 0, model.own("ssm.inner_size") or 0
    state, groups = model.own("ssm.state_size") or 0, model.own("ssm.group_count") or 0
    heads = model.head_count or 0
    if wkv := model.own("wkv.head_size"):
        # The last two tokens' rows, unless it says otherwise.
        rows, state_elements = (model.own("token_shift_count") or 2) * width, width * wkv
    elif row := model.own("shortconv.l_cache"):
        rows, state_elements = width * (row - 1), 0
    elif kda := model.own("kda.head_dim"):
        rows, state_elements = 3 * (kernel - 1 if kernel else 3) * heads * kda, kda * kda * heads
    else:
        rows, state_elements = max(kernel - 1, 0) * (inner + 2 * groups * state), state * inner
    return (rows + state_elements) * _F32_BYTES
