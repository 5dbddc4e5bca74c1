"""What of a model goes where: layers, KV cache and what is computed with, on GPUs and on the CPU.

The plan is one that llama.cpp carries out as it stands: layers in order, the output matrix counted
as one more after the last, and a split given as whole layers, so that no rounding is left to it. What
does not fit is refused, with what is missing and what would fit instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from llamatelemetry.distributed.llama_command import server_command, visible_devices
from llamatelemetry.distributed.memory_terms import PIPELINE_COPIES, Part, Term, cpu_terms, gpu_terms, total
from llamatelemetry.distributed.partition import cut_evenly
from llamatelemetry.distributed.serving import Serving
from llamatelemetry.distributed.shape import ModelShape
from llamatelemetry.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class GPURoom:
    """A GPU and what is free on it.

    Attributes:
        index: Its number, as ``nvidia-smi`` counts.
        free_bytes: Memory that nobody uses.
        name: For example ``Tesla T4``; empty where it is not known.
        uuid: ``GPU-…`` or ``MIG-…``; None where it is not known.
        mig: Whether it is a MIG instance: a CUDA program sees one of those at most.
    """

    index: int
    free_bytes: int
    name: str = ""
    uuid: str | None = None
    mig: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUShare:
    """What one GPU has.

    Attributes:
        gpu: The GPU.
        part: Which layers it has.
        terms: What takes its memory.
    """

    gpu: GPURoom
    part: Part
    terms: tuple[Term, ...]

    @property
    def needs_bytes(self) -> int:
        """What all terms take."""
        return total(self.terms)

    @property
    def headroom_bytes(self) -> int:
        """What stays free; negative for what is missing."""
        return self.gpu.free_bytes - self.needs_bytes

    @property
    def layers(self) -> int:
        """How many it has, the output counted as one."""
        return self.part.stop - self.part.first + self.part.output


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where everything of a model goes.

    Attributes:
        shape: The model.
        serving: How it is served.
        shares: What each GPU that is used has, in the order CUDA has to number them.
        cpu: What takes memory of the host.
        gpu_layers: ``--n-gpu-layers``: layers on GPUs, the output counted as one more.
        free: GPUs that nothing is put on.
    """

    shape: ModelShape
    serving: Serving
    shares: tuple[GPUShare, ...]
    cpu: tuple[Term, ...]
    gpu_layers: int
    free: tuple[GPURoom, ...] = ()

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """``--tensor-split``: how many layers each GPU has, the output counted as one."""
        return tuple(share.layers for share in self.shares)

    @property
    def short_bytes(self) -> int:
        """What is missing on all GPUs together; 0 if it fits."""
        return sum(max(0, -share.headroom_bytes) for share in self.shares)

    @property
    def headroom_bytes(self) -> int | None:
        """The least that stays free on any GPU that is used; None if none is."""
        return min((share.headroom_bytes for share in self.shares), default=None)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for the server: it sees the GPUs that it is to use, in this order, and no others."""
        return MappingProxyType(visible_devices([(share.gpu.index, share.gpu.uuid) for share in self.shares]))

    @property
    def command(self) -> tuple[str, ...]:
        """The ``llama-server`` that carries this out; empty for a model that is no GGUF file."""
        if self.shape.format != "gguf":
            return ()
        return server_command(self.shape.path, self.serving, self.gpu_layers, self.tensor_split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for.

    Attributes:
        shape: The model.
        serving: How it is to be served.
        gpus: The GPUs there are, in their order.
        gpu_layers: Layers on GPUs, the output counted as one more; ``all`` of them, or ``auto`` for as
            many as fit.
        leave: Numbers of GPUs to leave alone.
        spread: Uses every GPU, also where fewer would do.
        islands: UUIDs of GPUs that are near each other, as
            :func:`llamatelemetry.distributed.proximity.islands` tells; a model that needs several goes
            to one such group where it fits.

    Raises:
        InvalidValueError: ``gpu_layers`` is out of range, or ``leave`` names a GPU that is not there.
    """

    shape: ModelShape
    serving: Serving
    gpus: tuple[GPURoom, ...]
    gpu_layers: int | Literal["all", "auto"] = "all"
    leave: frozenset[int] = frozenset()
    spread: bool = False
    islands: tuple[Collection[str], ...] = ()

    def __post_init__(self) -> None:
        most = len(self.shape.layers) + 1
        if isinstance(self.gpu_layers, int) and not 0 <= self.gpu_layers <= most:
            fix = f"this model has {most - 1} layers and its output: give 0 to {most}, 'all' or 'auto'"
            raise InvalidValueError("gpu_layers", self.gpu_layers, fix)
        known = {gpu.index for gpu in self.gpus}
        for index in self.leave - known:
            there = ", ".join(map(str, sorted(known))) or "none"
            raise InvalidValueError("leave", index, f"no GPU has that number; there are: {there}")


def place(wish: Wish) -> Placement:
    """The placement that was asked for, or the nearest to it, whether it fits or not.

    It uses the fewest GPUs that do, those that are near each other and have the most room, and cuts so
    that the fullest has as much left as whole layers allow. GPUs pass hidden states on to each other,
    one after the other: more of them make room, and not an answer faster.

    Raises:
        InvalidValueError: The cache cannot keep this model's rows in the wanted type.
    """
    usable = _usable(wish)
    most = len(wish.shape.layers) + 1 if usable else 0
    if wish.gpu_layers != "auto":
        return _place(wish, usable, most if wish.gpu_layers == "all" else min(wish.gpu_layers, most))
    best, low, high = _place(wish, usable, 0), 0, most
    while low < high:
        middle = (low + high + 1) // 2
        placement = _place(wish, usable, middle)
        if placement.short_bytes:
            high = middle - 1
        else:
            best, low = placement, middle
    return best


def _usable(wish: Wish) -> tuple[GPURoom, ...]:
    usable = tuple(gpu for gpu in wish.gpus if gpu.index not in wish.leave)
    if any(gpu.mig for gpu in usable):
        return (max(usable, key=lambda gpu: gpu.free_bytes),)
    return usable


def _place(wish: Wish, usable: Sequence[GPURoom], gpu_layers: int) -> Placement:
    if gpu_layers == 0 or not usable:
        return _assemble(wish, (), 0)
    tried: list[Placement] = []
    for count in range(len(usable) if wish.spread else 1, len(usable) + 1):
        near = [_cut(wish, gpus, gpu_layers) for gpus in _near_each_other(wish, usable, count)]
        fitting = [placement for placement in near if not placement.short_bytes]
        if fitting:
            return max(fitting, key=lambda placement: placement.headroom_bytes or 0)
        tried.append(_cut(wish, _roomiest(usable, count), gpu_layers))
        if not tried[-1].short_bytes:
            break
    return min(tried, key=lambda placement: placement.short_bytes)


def _near_each_other(wish: Wish, usable: Sequence[GPURoom], count: int) -> Iterator[list[GPURoom]]:
    for island in wish.islands if count > 1 else ():
        group = [gpu for gpu in usable if gpu.uuid in island]
        if count <= len(group) < len(usable):
            yield _roomiest(group, count)


def _roomiest(gpus: Sequence[GPURoom], count: int) -> list[GPURoom]:
    """The ``count`` with the most room, in the order that they were in."""
    chosen = sorted(gpus, key=lambda gpu: -gpu.free_bytes)[:count]
    return [gpu for gpu in gpus if gpu in chosen]


def _cut(wish: Wish, gpus: Sequence[GPURoom], gpu_layers: int) -> Placement:
    layers = len(wish.shape.layers)
    start = layers + 1 - gpu_layers
    # GPUs take turns at the pieces of a prompt where they have everything between them.
    copies = PIPELINE_COPIES if len(gpus) > 1 and gpu_layers == layers + 1 else 1
    borrowed = max((layer.weights_bytes for layer in wish.shape.layers[:start]), default=0)

    def terms(first: int, stop: int, copies: int = copies) -> tuple[Part, tuple[Term, ...]]:
        part = Part(
            first=start + first,
            stop=min(start + stop, layers),
            output=start + stop > layers,
            copies=copies,
            leads=first == 0,
        )
        return part, gpu_terms(wish.shape, wish.serving, part, borrowed=borrowed if first == 0 else 0)

    counts = cut_evenly(
        gpu_layers, [gpu.free_bytes for gpu in gpus], lambda _gpu, first, stop: total(terms(first, stop)[1])
    )
    if sum(map(bool, counts)) == 1:
        copies = 1
    shares, first = [], 0
    for gpu, count in zip(gpus, counts, strict=True):
        if count:
            part, taken = terms(first, first + count, copies)
            shares.append(GPUShare(gpu=gpu, part=part, terms=taken))
        first += count
    return _assemble(wish, shares, gpu_layers, copies)


def _assemble(wish: Wish, shares: Sequence[GPUShare], gpu_layers: int, copies: int = 1) -> Placement:
    layers = len(wish.shape.layers)
    part = Part(first=0, stop=min(layers + 1 - gpu_layers, layers), output=gpu_layers == 0, copies=copies, on_cpu=True)
    used = [share.gpu for share in shares]
    return Placement(
        shape=wish.shape,
        serving=wish.serving,
        shares=tuple(shares),
        cpu=cpu_terms(wish.shape, wish.serving, part),
        gpu_layers=gpu_layers,
        free=tuple(gpu for gpu in wish.gpus if gpu not in used),
    )
