"""Which devices ``CUDA_VISIBLE_DEVICES`` leaves to a process.

NVML shows every device whatever the variable says; a request's figures must be of those that CUDA uses.
The rules are CUDA's: https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

VISIBLE_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE: Final = "CUDA_DEVICE_ORDER"

_INDEX: Final = re.compile(r"\+?(\d+)")
"""What C's ``strtoul`` takes: digits count, and whatever follows them does not."""


def visible_uuids(value: str | None, gpus: Sequence[str], instances: Sequence[str] = ()) -> tuple[str, ...]:
    """The devices that the variable names, in the order in which CUDA counts them.

    An entry is an index, a UUID or a beginning of one that only one device has. The first entry decides
    which of these the others must be. The list ends at the first entry that names nothing, or more than
    one device; the entries before it count. A device named twice makes all of them invisible.

    Indices count as ``nvidia-smi`` does, which is CUDA's order only with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``
    or where all GPUs are of one kind: CUDA's own order puts the fastest first, and NVML does not know it.

    Args:
        value: The variable; None where it is not set, which makes every GPU visible.
        gpus: UUIDs of the GPUs, by index.
        instances: UUIDs of their MIG instances.

    Returns:
        UUIDs of GPUs and of MIG instances.
    """
    if value is None:
        return tuple(gpus)
    entries = [entry.strip() for entry in value.split(",")]
    kind = _kind(entries[0])
    named: list[str] = []
    for entry in entries:
        uuid = _named(entry, gpus, instances) if _kind(entry) == kind else None
        if uuid is None:
            break
        if uuid in named:
            return ()
        named.append(uuid)
    return tuple(named)


def names_by_index(value: str | None) -> bool:
    """Whether the variable counts GPUs instead of naming them, so that their order matters."""
    return value is not None and _INDEX.match(value.strip()) is not None


def _kind(entry: str) -> str:
    return next((prefix for prefix in ("GPU-", "MIG-") if entry.startswith(prefix)), "")


def _named(entry: str, gpus: Sequence[str], instances: Sequence[str]) -> str | None:
    kind = _kind(entry)
    if not kind:
        digits = _INDEX.match(entry)
        index = int(digits[1]) if digits else len(gpus)
        return gpus[index] if index < len(gpus) else None
    found = [uuid for uuid in (gpus if kind == "GPU-" else instances) if uuid.startswith(entry)]
    if entry in found:
        return entry
    return found[0] if len(found) == 1 else None
