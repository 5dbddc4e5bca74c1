"""NVLinks as NVML tells of them: the ends that one GPU has, and what two GPUs' ends make together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Final

from llamatelemetry.distributed.inquiry import Inquiry

_NUMBERS: Final = 36
"""Links to ask for where the binding does not say how many a GPU can have."""

_FIELD_SPEED: Final = 164  # NVML_FI_DEV_NVLINK_GET_SPEED, of the link that the scope names.
_FIELD_COMMON_SPEED: Final = 90  # NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, for drivers without the field above.
_BYTES_PER_MB: Final = 1_000_000

_GENERATIONS: Final[Mapping[int, frozenset[int]]] = {
    1: frozenset({1}),
    2: frozenset({2}),
    3: frozenset({2}),
    4: frozenset({2, 3}),
    5: frozenset({3}),
    6: frozenset({3, 4}),
    7: frozenset({4, 5}),
    8: frozenset({5, 6}),
}
"""What a version code can mean. nvml.h counts NVLink 2.2 as 3; the driver's own header counts it as 4
and every later one is one higher there too. NVML has been seen to answer by the latter on Hopper."""

_GENERATION_OF_ARCHITECTURE: Final[Mapping[int, int]] = {6: 1, 7: 2, 8: 3, 9: 4, 10: 5}
"""Major compute capability to the generation of NVLink it has, which decides where a code is ambiguous."""


class RemoteKind(StrEnum):
    """What is at the other end of an NVLink."""

    GPU = "gpu"
    SWITCH = "switch"
    CPU = "cpu"
    UNKNOWN = "unknown"


_REMOTE_KINDS: Final = {0: RemoteKind.GPU, 1: RemoteKind.CPU, 2: RemoteKind.SWITCH}


@dataclass(frozen=True, slots=True, kw_only=True)
class NVLink:
    """One active NVLink, from the GPU that has this end of it.

    Attributes:
        number: Its number on the GPU.
        remote: What is at the other end.
        remote_bus_id: PCI address of that, as :func:`normal_bus_id` writes it; None if not told.
        generation: Generation of NVLink, such as 4 on Hopper; None if not told or not clear.
        bytes_per_s: Raw bandwidth each way; None if not told.
    """

    number: int
    remote: RemoteKind = RemoteKind.UNKNOWN
    remote_bus_id: str | None = None
    generation: int | None = None
    bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NVLinkBond:
    """All NVLinks between two GPUs, used as one.

    Attributes:
        count: Links, as in ``NV18``.
        through_switch: True if any of them go through NVSwitches.
        generation: The lowest generation among them; None if not told.
        bytes_per_s: Raw bandwidth each way, of all together; None if one of them does not tell.
    """

    count: int
    through_switch: bool = False
    generation: int | None = None
    bytes_per_s: int | None = None


def normal_bus_id(bus_id: str | bytes) -> str:
    """A PCI address in one spelling: eight digits of domain, and lower case.

    Args:
        bus_id: The address with or without its domain, as NVML or the kernel writes it.
    """
    text = bus_id.decode(errors="replace") if isinstance(bus_id, bytes) else bus_id
    domain, colon, rest = text.strip("\0 ").lower().rpartition(":")
    head, separator, bus = domain.rpartition(":")
    return f"{head.rjust(8, '0')[-8:]}:{bus}:{rest}" if separator else f"00000000:{domain}{colon}{rest}"


def read_nvlinks(
    inquiry: Inquiry, handle: Any | None, compute_capability: tuple[int, int] | None
) -> tuple[NVLink, ...]:
    """The active NVLinks of a GPU.

    Args:
        inquiry: Where refusals are kept.
        handle: The GPU's handle; None if it could not be had.
        compute_capability: The GPU's, which clears up ambiguous versions.
    """
    active = _active(inquiry, handle)
    speeds = _speeds(inquiry, handle, active)
    links = []
    for number in active:
        remote = inquiry.ask("nvlink.remote", "nvmlDeviceGetNvLinkRemoteDeviceType", handle, number)
        pci = inquiry.ask("nvlink.remote_bus_id", "nvmlDeviceGetNvLinkRemotePciInfo", handle, number)
        code = inquiry.ask("nvlink.generation", "nvmlDeviceGetNvLinkVersion", handle, number)
        links.append(
            NVLink(
                number=number,
                remote=_REMOTE_KINDS.get(remote, RemoteKind.UNKNOWN),
                remote_bus_id=None if pci is None else normal_bus_id(pci.busId),
                generation=None if code is None else generation_of(code, compute_capability),
                bytes_per_s=speeds.get(number),
            )
        )
    return tuple(links)


def bond(
    one: Sequence[NVLink], one_bus_id: str | None, other: Sequence[NVLink], other_bus_id: str | None
) -> NVLinkBond | None:
    """What the NVLinks of two GPUs make between them; None for nothing.

    Direct links are those that lead to the other's address. Links to NVSwitches count too, as many
    as both have: switches of one machine are linked to each other, so each reaches every GPU.

    Args:
        one: Links of one GPU.
        one_bus_id: Its PCI address; None if not told.
        other: Links of the other.
        other_bus_id: Its PCI address.
    """
    # Both ends should tell of the same links; where one tells of fewer, the other is believed.
    ends = (_leading_to(one, other_bus_id), _leading_to(other, one_bus_id))
    direct = max(map(len, ends))
    fullest = [links for links in ends if len(links) == direct]
    switched = (_to_switches(one), _to_switches(other))
    through = min(map(len, switched))
    if not direct + through:
        return None
    links = [*chain(*fullest), *(chain(*switched) if through else ())]
    generations = [link.generation for link in links if link.generation is not None]
    bytes_per_s = min(map(_bytes_per_s, fullest)) + min(map(_bytes_per_s, switched))
    return NVLinkBond(
        count=direct + through,
        through_switch=through > 0,
        generation=min(generations, default=None),
        bytes_per_s=bytes_per_s if all(link.bytes_per_s is not None for link in links) else None,
    )


def generation_of(code: int, compute_capability: tuple[int, int] | None) -> int | None:
    """The generation of NVLink that a version code stands for; None where that is not clear.

    Args:
        code: What ``nvmlDeviceGetNvLinkVersion`` answered.
        compute_capability: Of the GPU.
    """
    possible = _GENERATIONS.get(code, frozenset())
    if compute_capability is not None:
        expected = _GENERATION_OF_ARCHITECTURE.get(compute_capability[0])
        if expected in possible:
            return expected
    return next(iter(possible)) if len(possible) == 1 else None


def _active(inquiry: Inquiry, handle: Any | None) -> list[int]:
    """Numbers of the links that are up. Nothing tells which numbers a GPU has, so each is asked for."""
    import pynvml

    numbers = range(getattr(pynvml, "NVML_NVLINK_MAX_LINKS", _NUMBERS))
    states = {number: inquiry.ask("nvlinks", "nvmlDeviceGetNvLinkState", handle, number) for number in numbers}
    if any(state is not None for state in states.values()):
        inquiry.answered("nvlinks")
    return [number for number, state in states.items() if state]


def _speeds(inquiry: Inquiry, handle: Any | None, numbers: Sequence[int]) -> dict[int, int]:
    """Bytes a second each way, of the links that tell."""
    if not numbers:
        return {}
    figure, function = "nvlink.bytes_per_s", "nvmlDeviceGetFieldValues"
    asked = [(_FIELD_SPEED, number) for number in numbers]
    values = inquiry.ask(figure, function, handle, asked)
    speeds = {} if values is None else _told(zip(numbers, values, strict=True))
    if not speeds:
        common = inquiry.ask(figure, function, handle, [_FIELD_COMMON_SPEED])
        speeds = {} if common is None else _told((number, common[0]) for number in numbers)
    if speeds:
        inquiry.answered(figure)
    else:
        inquiry.absent(figure, "the driver does not tell the speed of NVLinks")
    return speeds


def _told(values: Iterable[tuple[int, Any]]) -> dict[int, int]:
    """Speeds in bytes a second. The fields are in megabytes; zero is no speed that an active link can have."""
    import pynvml

    return {
        number: value.value.uiVal * _BYTES_PER_MB
        for number, value in values
        if value.nvmlReturn == pynvml.NVML_SUCCESS and value.value.uiVal
    }


def _leading_to(links: Iterable[NVLink], bus_id: str | None) -> list[NVLink]:
    if bus_id is None:
        return []
    return [link for link in links if link.remote is not RemoteKind.SWITCH and link.remote_bus_id == bus_id]


def _to_switches(links: Iterable[NVLink]) -> list[NVLink]:
    return [link for link in links if link.remote is RemoteKind.SWITCH]


def _bytes_per_s(links: Iterable[NVLink]) -> int:
    return sum(link.bytes_per_s or 0 for link in links)
