"""What a CUDA device that torch counts is called by everybody else.

torch counts the devices that ``CUDA_VISIBLE_DEVICES`` leaves, in CUDA's order, and NVML all that there
are, in the order of the bus. So an index of the one names another device to the other; a UUID does not.
"""

from __future__ import annotations

import sys
from typing import Any


def device_names(index: int) -> tuple[str, ...]:
    """The UUID of a device, as NVML writes it for a GPU and for a MIG instance: torch does not say which it is.

    Args:
        index: As torch counts.

    Returns:
        Nothing where torch is not loaded, is built without CUDA, or does not tell.
    """
    torch: Any = sys.modules.get("torch")
    try:
        uuid = torch.cuda.get_device_properties(index).uuid
    except (AssertionError, AttributeError, RuntimeError):
        return ()  # No such device, a build without CUDA, a lost GPU.
    return f"GPU-{uuid}", f"MIG-{uuid}"
