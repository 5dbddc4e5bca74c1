"""What takes memory on one device, term by term, each with the formula it follows from.

Weights and KV cache are what llama.cpp allocates, to the padding of its allocator. What it computes
with has no closed form, because its allocator reuses memory from step to step of a graph; the figure
here is an upper bound, fitted to what llama.cpp reports for models of nine architectures and checked
against it in the tests. The rules for devices are those of ``load_tensors`` in ``src/llama-model.cpp``
and of ``ggml_backend_sched`` in ``ggml/src/ggml-backend.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from llamatelemetry.distributed.serving import CACHE_TYPES, UNQUANTIZED_TYPES, Serving
from llamatelemetry.distributed.shape import LayerShape, ModelShape
from llamatelemetry.errors import InvalidValueError

_F32: Final = 4
_F16: Final = 2
_I64: Final = 8
_SMALL_INPUTS: Final = 48
"""Numbers per token of the inputs that are not worth a term: positions, and where in the cache it goes."""

_ALIGNMENT_BYTES: Final = 2**20
_HIDDEN_STATES: Final = 7
"""Hidden states that are there at once, at most: a layer's input, its normalized form, both halves' results."""

_MIXTURE_STATES: Final = 2
"""As many more where the results of several experts are added up."""

PIPELINE_COPIES: Final = 4
"""GGML_SCHED_MAX_COPIES: inputs are there so often where GPUs take turns, so that each finds its own."""


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that takes memory.

    Attributes:
        name: What it is.
        bytes: How much it takes.
        formula: How that comes about, in the numbers of this plan.
        bound: True where it is an upper bound, and not what will be allocated.
    """

    name: str
    bytes: int
    formula: str
    bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What of a model one device has.

    Attributes:
        first: Number of its first layer.
        stop: Number after its last layer.
        output: Whether it has the output matrix.
        copies: How often inputs are there: 1, or :data:`PIPELINE_COPIES`.
        leads: Whether it is the first GPU, which gets the embedded tokens.
        on_cpu: Whether it is the CPU, which fills in the masks of every layer.
    """

    first: int
    stop: int
    output: bool
    copies: int = 1
    leads: bool = True
    on_cpu: bool = False


def total(terms: Iterable[Term]) -> int:
    """What all of them take, in bytes."""
    return sum(term.bytes for term in terms)


def gpu_terms(shape: ModelShape, serving: Serving, part: Part, *, borrowed: int = 0) -> tuple[Term, ...]:
    """What takes memory on a GPU.

    Args:
        shape: The model.
        serving: How it is served.
        part: What of it is there.
        borrowed: Bytes of the largest layer that stays on the CPU: it is copied to the first GPU for long
            prompts, which compute it there.

    Raises:
        InvalidValueError: The cache cannot keep this model's rows in the wanted type.
    """
    layers = shape.layers[part.first : part.stop]
    terms = _weights(layers)
    if part.output:
        terms += _output(shape)
    terms += cache_terms(serving, layers)
    # The embedded tokens reach the first GPU in several forms; the others get one hidden state.
    terms += _compute(shape, serving, layers, part=part, inputs=4 if part.leads else 1)
    if borrowed:
        formula = "the largest layer of those that stay on the CPU"
        terms.append(Term("layer lent by the CPU", borrowed, formula, bound=True))
    terms.append(
        Term("reserve", serving.reserve_bytes, "CUDA context, cuBLAS and what else is in no buffer", bound=True)
    )
    return tuple(term for term in terms if term.bytes)


def cpu_terms(shape: ModelShape, serving: Serving, part: Part) -> tuple[Term, ...]:
    """What takes memory of the host: the input always, layers and output where they stay there.

    Raises:
        InvalidValueError: The cache cannot keep this model's rows in the wanted type.
    """
    layers = shape.layers[part.first : part.stop]
    terms = [Term("input weights", shape.input_bytes, "they stay on the CPU; the file is mapped, not copied")]
    terms += _weights(layers)
    if part.output:
        formula = "norm, and the output matrix where it is not the token embeddings"
        terms.append(Term("output weights", shape.output_bytes, formula))
    terms += cache_terms(serving, layers)
    terms += _compute(shape, serving, layers, part=part, inputs=2)
    rows, vocabulary = serving.slots, shape.vocabulary_size
    terms.append(Term("logits to sample from", rows * vocabulary * _F32, f"{rows} slots * {vocabulary} tokens * 4 B"))
    return tuple(term for term in terms if term.bytes)


def cache_terms(serving: Serving, layers: Sequence[LayerShape]) -> list[Term]:
    """What layers keep of the tokens so far: KV cache, and states of recurrent layers."""
    kinds: dict[int | None, list[tuple[int, int]]] = {}
    for layer in layers:
        if layer.key_elements or layer.value_elements:
            keys = _row_bytes("key_type", serving.key_type, layer.key_elements)
            values = _row_bytes("value_type", serving.value_type, layer.value_elements)
            kinds.setdefault(layer.window, []).append((keys, values))
    terms = []
    for window, rows in sorted(kinds.items(), key=lambda kind: kind[0] or 0):
        cells = serving.cells_of(window)
        why = "" if window is None else f" ({window} behind, {serving.tokens_at_once} at once)"
        keys, values = rows[0]
        alike = f"{len(rows)} layers * ({keys} B of keys + {values} B of values)"
        per_cell = sum(map(sum, rows))
        each = alike if len(set(rows)) == 1 else f"{per_cell} B in {len(rows)} layers"
        name = "KV cache" if window is None else f"KV cache, windows of {window}"
        formula = f"{serving.streams} * {cells} cells{why} * {each}"
        terms.append(Term(name, serving.streams * cells * per_cell, formula))
    states = sum(layer.state_bytes for layer in layers)
    terms.append(Term("states", serving.slots * states, f"{serving.slots} slots * {states} B of recurrent layers"))
    return terms


def _weights(layers: Sequence[LayerShape]) -> list[Term]:
    return [Term("weights", sum(layer.weights_bytes for layer in layers), f"{len(layers)} layers as they are stored")]


def _output(shape: ModelShape) -> list[Term]:
    if shape.tied_output:
        copied = shape.output_bytes + shape.input_bytes
        return [Term("output weights", copied, "norm, and the token embeddings once more: they are the output matrix")]
    return [Term("output weights", shape.output_bytes, "norm and output matrix as they are stored")]


def _compute(
    shape: ModelShape, serving: Serving, layers: Sequence[LayerShape], *, part: Part, inputs: int
) -> list[Term]:
    """Upper bounds of what is computed with, for the longest piece of a prompt."""
    tokens, width, copies = serving.tokens_reserved, shape.embedding_length, part.copies
    queries = shape.attention_length or width
    recurrent = max((layer.state_bytes for layer in layers), default=0)
    crossing = (copies - 1) * (inputs * width + bool(recurrent) * queries)
    states = _HIDDEN_STATES + (_MIXTURE_STATES if shape.experts_used > 1 else 0)
    each = states * width + crossing + copies * _SMALL_INPUTS
    terms = [
        Term(
            "hidden states",
            tokens * each * _F32,
            f"{tokens} tokens * {each} numbers * 4 B: {states} * {width}, {crossing} that cross, and indices",
            bound=True,
        ),
        Term(
            "states at work",
            (copies + 2) * serving.slots * recurrent,
            f"{copies + 2} * {serving.slots} slots * {recurrent} B of the largest recurrent layer",
            bound=True,
        ),
    ]
    # The CPU fills in the inputs of every layer, wherever it is.
    attending = [layer for layer in (shape.layers if part.on_cpu else layers) if layer.key_elements]
    kinds = {layer.window: layer for layer in attending}
    cells = sum(map(serving.cells_of, kinds))
    mask = _F16 if serving.flash_attention else _F32
    formula = f"{copies} * {tokens} tokens * {cells} cells * {mask} B"
    terms.append(Term("attention masks", copies * tokens * cells * mask, formula, bound=True))
    if not serving.flash_attention:
        # Values are kept transposed then: each of their numbers has an index of its own.
        values = sum(layer.value_elements for layer in kinds.values())
        formula = f"{copies} * {tokens} tokens * {values} values * 8 B"
        terms.append(Term("indices of values", copies * tokens * values * _I64, formula, bound=True))
    if {serving.key_type, serving.value_type} - set(UNQUANTIZED_TYPES) and shape.head_count:
        head = queries // shape.head_count
        formula = f"{copies} * {len(kinds)} * ({head} * {head} + 64 * 64) * 4 B, for a quantized cache"
        matrices = copies * len(kinds) * (head * head + 64 * 64) * _F32
        terms.append(Term("rotation matrices", matrices, formula, bound=True))
    steps = _layer_steps(shape, serving, layers) if layers else []
    if part.output:
        rows, vocabulary = serving.rows, shape.vocabulary_size
        steps.append(("logits", rows * vocabulary * _F32, f"{rows} rows * {vocabulary} tokens * 4 B"))
    if steps:
        name, size, formula = max(steps, key=lambda step: step[1])
        terms.append(Term(f"widest step: {name}", size, formula, bound=True))
    terms.append(Term("alignment", _ALIGNMENT_BYTES, "gaps between what is aligned", bound=True))
    return terms


def _layer_steps(shape: ModelShape, serving: Serving, layers: Sequence[LayerShape]) -> list[tuple[str, int, str]]:
    """What the steps of a layer hold at once, apart from the hidden state; one at a time is there."""
    tokens, width = serving.tokens_reserved, shape.embedding_length
    wide, results = shape.feed_forward_length or 0, shape.experts_used * width
    # Gate, up and their product; the results of many narrow experts find no room where those were.
    feed = 3 * wide + (results if shape.experts_used > 1 and 2 * wide <= results else 0)
    queries = shape.attention_length or width
    attending = [layer for layer in layers if layer.key_elements]
    rows = max((layer.key_elements + layer.value_elements for layer in attending), default=0)
    attention = 3 * queries + 2 * rows
    formula = f"{tokens} tokens * {{}} numbers * 4 B"
    steps = [
        ("feed-forward", tokens * feed * _F32, formula.format(feed)),
        ("attention", tokens * attention * _F32, formula.format(attention)),
    ]
    if attending and not serving.flash_attention:
        cells = max(serving.cells_of(layer.window) for layer in attending)
        scores = cells * shape.head_count
        steps.append(
            (
                "attention scores",
                tokens * (attention + scores) * _F32,
                f"{tokens} tokens * ({attention} + {cells} cells * {shape.head_count} heads) numbers * 4 B",
            )
        )
    return steps


def _row_bytes(field: str, kind: str, elements: int) -> int:
    cache_type = CACHE_TYPES[kind]
    if elements % cache_type.block:
        fix = f"this model keeps rows of {elements} numbers, and {kind} comes in blocks of {cache_type.block}; give f16"
        raise InvalidValueError(field, kind, fix)
    return elements // cache_type.block * cache_type.block_bytes
