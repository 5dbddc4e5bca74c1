"""A placement in lines of plain text, with the arithmetic behind every figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llamatelemetry.distributed.memory_terms import Term, total
from llamatelemetry.distributed.placement import GPURoom, GPUShare, Placement
from llamatelemetry.distributed.planning import Refusal
from llamatelemetry.distributed.sizes import counted, format_size

_NAME_WIDTH: Final = 27
_SIZE_WIDTH: Final = 11


def placement_lines(placement: Placement) -> list[str]:
    """What goes where, and what each device needs."""
    lines = [_head(placement), f"Asked for: {_serving(placement)}"]
    lines += [f"Note: {text}" for text in placement.shape.assumptions]
    if placement.shape.weights_estimated:
        lines.append("Note: no weights were there to measure; their bytes are worked out from the other sizes.")
    trained, asked = placement.shape.context_length, placement.serving.context_length
    if trained is not None and asked > trained:
        lines.append(
            f"Note: the model was trained for {trained} tokens: llama-server lets a slot have no more of the {asked} "
            "that are planned for."
        )
    for share in placement.shares:
        lines += ["", _gpu(share), *_terms(share.terms)]
        left = share.headroom_bytes
        verdict = f"leaves {format_size(left)}" if left >= 0 else f"{format_size(-left)} short"
        needed = f"of {format_size(share.gpu.free_bytes)} free: {verdict}"
        lines.append(_row("needs", share.needs_bytes, needed))
    for gpu in placement.free:
        lines += ["", f"{_title(gpu)}  left free: {format_size(gpu.free_bytes)}"]
    lines += ["", f"CPU  {_on_cpu(placement)}"]
    lines += [*_terms(placement.cpu), _row("needs", total(placement.cpu), "of the host's memory")]
    if any(term.bound for term in placement.cpu):
        lines += ["", "~ is an upper bound; all else is what llama.cpp allocates."]
    return lines


def refusal_lines(refusal: Refusal) -> list[str]:
    """By how much it does not fit, and what would."""
    lines = [f"It does not fit: {format_size(refusal.short_bytes)} are missing."]
    lines += [f"  {_short(share)}" for share in refusal.attempt.shares if share.headroom_bytes < 0]
    lines += ["What would fit:"]
    for way in refusal.ways_out:
        left = "" if way.headroom_bytes is None else f", with {format_size(way.headroom_bytes)} to spare"
        arguments = " ".join(way.arguments)
        lines.append(f"  {way.change}{left}{f'  ({arguments})' if arguments else ''}")
    return lines


def _head(placement: Placement) -> str:
    shape = placement.shape
    parameters = "" if shape.parameters is None else f", {_counted(shape.parameters)} parameters"
    kind = f"{shape.architecture}{f', {shape.quantization}' if shape.quantization else ''}{parameters}"
    return f"{shape.name}: {kind}, {len(shape.layers)} layers, {format_size(shape.weights_bytes)}"


def _counted(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 10**9 else f"{number / 1e6:.1f} million"


def _serving(placement: Placement) -> str:
    serving = placement.serving
    shared = "one cache for all" if serving.unified else "a cache each"
    kinds = serving.key_type if serving.key_type == serving.value_type else f"{serving.key_type}/{serving.value_type}"
    return f"{counted(serving.slots, 'slot')} of {serving.context_length} tokens, {shared}, KV in {kinds}"


def _gpu(share: GPUShare) -> str:
    part = share.part
    output = " and the output" if part.output else ""
    layers = f"layers {part.first} to {part.stop - 1}" if part.stop > part.first else "no layer"
    return f"{_title(share.gpu)}  {layers}{output}"


def _title(gpu: GPURoom) -> str:
    return f"GPU {gpu.index}  {gpu.name}".rstrip()


def _on_cpu(placement: Placement) -> str:
    layers = len(placement.shape.layers)
    kept = min(layers + 1 - placement.gpu_layers, layers)
    if not kept:
        return "input"
    return f"input, layers 0 to {kept - 1}{'' if placement.gpu_layers else ' and the output'}"


def _terms(terms: Iterable[Term]) -> list[str]:
    return [_row(term.name, term.bytes, term.formula, bound=term.bound) for term in terms]


def _row(name: str, amount: int, formula: str, *, bound: bool = False) -> str:
    size = f"{'~' if bound else ''}{format_size(amount)}"
    return f"  {name:<{_NAME_WIDTH}}{size:>{_SIZE_WIDTH}}  {formula}"


def _short(share: GPUShare) -> str:
    needs, free = format_size(share.needs_bytes), format_size(share.gpu.free_bytes)
    return f"{_title(share.gpu)}: needs {needs}, has {free} free"
