"""Whether a model fits this machine, and what its backend is to be told so that it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llamatelemetry.deployment.record import ServeOptions
from llamatelemetry.distributed.free_memory import free_memory
from llamatelemetry.distributed.host_memory import available_memory
from llamatelemetry.distributed.memory_terms import Term, total
from llamatelemetry.distributed.placement import GPURoom, Placement, Wish
from llamatelemetry.distributed.placement_text import placement_lines, refusal_lines
from llamatelemetry.distributed.planning import Refusal, plan
from llamatelemetry.distributed.proximity import islands
from llamatelemetry.distributed.serving import Serving
from llamatelemetry.distributed.sizes import format_size
from llamatelemetry.distributed.topology import read_topology
from llamatelemetry.errors import DoesNotFitError, GPUUnavailableError
from llamatelemetry.gpu.device import DriverState
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.plugins import load_plugins

HOST: Final = "host"
"""What memory of the host is called beside that of GPUs."""

_DEFAULT_CONTEXT: Final = 4096
_NO_GPU: Final = {DriverState.NO_DRIVER.value, DriverState.NO_DEVICE.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A model that fits.

    Attributes:
        placement: What goes where.
        needs: Bytes on the ``host`` and on each GPU that is used, by UUID or number.
        free: Bytes that there were in each of these places; what is not known is left out.
    """

    placement: Placement
    needs: Mapping[str, int]
    free: Mapping[str, int]

    def backend_options(self) -> dict[str, Any]:
        """Arguments of a backend's constructor that carry it out."""
        placement = self.placement
        told: dict[str, Any] = {
            "context_length": placement.serving.context_length,
            "slots": placement.serving.slots,
            "gpu_layers": placement.gpu_layers,
        }
        if placement.shares or placement.free:
            told["gpus"] = [_key(share.gpu) for share in placement.shares]
        if len(placement.shares) > 1:
            told["extra_args"] = ["--tensor-split", ",".join(map(str, placement.tensor_split))]
        return told


def place_model(model: Path, options: ServeOptions, freed: Mapping[str, int] | None = None) -> Placed:
    """Plans a model onto this machine; where no GPU is, onto the memory of its host.

    Args:
        model: The model file.
        options: How it is to be served.
        freed: Bytes that will be free beside what is: of a server that is stopped first.

    Raises:
        DoesNotFitError: It does not, and by how much; ``arithmetic`` has every term.
        ModelFileError: The file is damaged, or in no format that a plugin reads.
        GPUUnavailableError: There is a GPU, and it cannot be read.
    """
    freed = freed or {}
    shape = load_plugins().read_model_shape(model)
    trained = shape.context_length or _DEFAULT_CONTEXT
    serving = Serving(context_length=options.context_length or min(trained, _DEFAULT_CONTEXT), slots=options.slots)
    rooms, near = _gpus()
    rooms = tuple(replace(room, free_bytes=room.free_bytes + freed.get(_key(room), 0)) for room in rooms)
    found = plan(Wish(shape=shape, serving=serving, gpus=rooms, gpu_layers=options.gpu_layers, islands=near))
    if isinstance(found, Refusal):
        reason, *ways_out = refusal_lines(found)
        raise DoesNotFitError("GPU", found.short_bytes, reason, (*placement_lines(found.attempt), *ways_out))
    needed, there = total(found.cpu), available_memory()
    if there is not None:
        there += freed.get(HOST, 0)
        if needed > there:
            short = needed - there
            reason = (
                f"It does not fit: it needs {format_size(needed)} of the host's memory and {format_size(there)} are "
                f"free: {format_size(short)} are missing. Give it fewer slots, shorter contexts or a smaller model"
            )
            raise DoesNotFitError(HOST, short, reason, tuple(_line(term) for term in found.cpu))
    return Placed(
        placement=found,
        needs={HOST: needed} | {_key(share.gpu): share.needs_bytes for share in found.shares},
        free=({} if there is None else {HOST: there}) | {_key(each.gpu): each.gpu.free_bytes for each in found.shares},
    )


def _gpus() -> tuple[tuple[GPURoom, ...], tuple[tuple[str, ...], ...]]:
    nvml = Nvml()
    try:
        rooms = free_memory(nvml)
        # Of two there is no choice, and asking takes hundreds of calls.
        return rooms, islands(read_topology(nvml)) if len(rooms) > 2 else ()
    except GPUUnavailableError as error:
        if error.state not in _NO_GPU:
            raise
        return (), ()
    finally:
        nvml.close()


def _key(gpu: GPURoom) -> str:
    return gpu.uuid or str(gpu.index)


def _line(term: Term) -> str:
    return f"  {term.name}: {'at most ' if term.bound else ''}{format_size(term.bytes)} = {term.formula}"
