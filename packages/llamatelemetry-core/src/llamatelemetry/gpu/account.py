"""The account of one request, or of one section of a user's code: what it did to each device so far.

Accounts are the ledger's; it alone writes them, under its lock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from llamatelemetry.gpu.device import GPUDevice
from llamatelemetry.gpu.energy import Claim, EnergyWindow, RequestEnergy, uncertainty_j
from llamatelemetry.gpu.snapshot import Sample
from llamatelemetry.gpu.use import DeviceUse, EnergyScope, GPUUse
from llamatelemetry.inference.metering import Work


class Tally:
    """What one account saw of one device.

    Attributes:
        device: The device.
        energy: Its shares of the device's windows.
        idle_j: The idle energy of the windows it observed.
        process_memory_bytes: Memory of the process that serves, at its latest reading.
    """

    __slots__ = (
        *(
            "_after",
            "_before",
            "_busy",
            "_closed",
            "_decoded",
            "_peak",
            "_prefilled",
            "_reasons",
            "_samples",
            "_scope",
            "_temperature_c",
        ),
        *("device", "energy", "idle_j", "process_memory_bytes"),
    )

    def __init__(self, device: GPUDevice, before: Sample | None) -> None:
        self.device: Final = device
        self.energy: Final = RequestEnergy()
        self.idle_j: float = 0.0
        self.process_memory_bytes: int | None = None
        self._before = self._peak = None if before is None else before.fast.memory_used_bytes
        self._after: int | None = None
        self._busy = 0.0
        self._samples = 0
        self._scope: EnergyScope | None = None
        self._temperature_c: float | None = None
        self._reasons: dict[str, None] | None = None
        self._prefilled = self._decoded = 0.0
        self._closed = False

    @property
    def is_begun(self) -> bool:
        """Whether a sample of the interval itself, or of what comes after it, was taken."""
        return self._after is not None

    @property
    def memory_bytes(self) -> int | None:
        """Memory in use at the latest sample that counts."""
        return self._before if self._after is None else self._after

    def note(self, sample: Sample, work: Work) -> None:
        """Takes a sample: the last before the interval counts, all during it, and the first after it."""
        if sample.lost or self._closed:
            return
        fast = sample.fast
        memory = fast.memory_used_bytes
        if sample.monotonic_ns <= work.begun_ns:
            self._before = self._peak = memory
            return
        self._closed = work.ended_ns is not None and sample.monotonic_ns >= work.ended_ns
        if memory is not None:
            self._after = memory
            self._peak = max(memory, self._peak or 0)
        if fast.utilization is not None:
            self._busy += fast.utilization
            self._samples += 1
        if sample.temperature_c is not None:
            known = self._temperature_c
            self._temperature_c = sample.temperature_c if known is None else max(known, sample.temperature_c)
        if sample.throttle_reasons is not None:
            self._reasons = {**(self._reasons or {}), **dict.fromkeys(sample.throttle_reasons)}

    def divided_from(self, scope: EnergyScope) -> None:
        """Notes whose energy a window's share is of; it is the process's if all of them are."""
        if self._scope != "device":
            self._scope = scope

    def claim(self, work: Work, window: EnergyWindow, now_ns: int) -> Claim:
        """What was worked in a window; windows come in the order of time.

        Prompt tokens are taken to be computed evenly from dispatch to the first token, which they bring,
        and each later token evenly from the one before it. While the first token has not come, what is
        left of the prompt is spread until now. Nothing is counted twice.
        """
        begin, end = clip(work, window)
        tokens = work.token_ns
        prompt_end = tokens[0] if tokens else work.ended_ns or now_ns
        left = max(0.0, (work.prefill_tokens or 0) - self._prefilled)
        prompt_begin = max(window.start_ns, work.dispatched_ns)
        prefill = 0.0
        if left and prompt_begin < window.end_ns:
            length = prompt_end - prompt_begin
            here = min(prompt_end, window.end_ns) - prompt_begin
            prefill = left if here >= length else left * here / length
            self._prefilled += prefill
        decoded = max(self._decoded, _decoded_until(tokens, window.end_ns))
        decode, self._decoded = decoded - self._decoded, decoded
        return Claim(overlap_ns=end - begin, prefill_tokens=prefill, decode_tokens=decode)

    def use(self, *, section: bool) -> DeviceUse:
        """What it saw, frozen."""
        energy = self.energy
        known = energy.method is not None
        return DeviceUse(
            device=self.device,
            memory_before_bytes=self._before,
            memory_after_bytes=self._after,
            memory_peak_bytes=self._peak,
            process_memory_bytes=self.process_memory_bytes,
            utilization=self._busy / self._samples if self._samples else None,
            energy_j=energy.energy_j if known else None,
            idle_j=self.idle_j if known and section else None,
            energy_method=energy.method,
            energy_uncertainty_j=energy.uncertainty_j if known else None,
            energy_scope=self._scope or "device",
            temperature_max_c=self._temperature_c,
            throttle_reasons=None if self._reasons is None else tuple(self._reasons),
        )


class Account:
    """One interval's tallies on the devices it may use.

    Args:
        look: Tells what was done for it so far.
        gpus: Which devices, as UUIDs or indices in text; None for all.
        pid: The process that computes, if it is known.
        section: True for a section of a user's code, which watches and competes with no request.
        on_done: Called with the outcome once it is complete, in the thread that completes it.

    Attributes:
        tallies: By device; None until the first sample after its begin.
        done: True once nothing more will be added.
    """

    __slots__ = ("_peak_bytes", "done", "gpus", "look", "on_done", "pid", "section", "tallies")

    def __init__(
        self,
        look: Callable[[], Work],
        *,
        gpus: tuple[str, ...] | None = None,
        pid: int | None = None,
        section: bool = False,
        on_done: Callable[[GPUUse | None], None] | None = None,
    ) -> None:
        self.look: Final = look
        self.gpus: Final = gpus
        self.pid: Final = pid
        self.section: Final = section
        self.on_done: Final = on_done
        self.tallies: dict[str, Tally] | None = None
        self.done: bool = False
        self._peak_bytes: int | None = None

    def devices_of(self, present: Sequence[GPUDevice]) -> list[GPUDevice]:
        """Those of the devices that it may use; an instance of a GPU not beside the whole, which has it already."""
        named = self.gpus
        chosen = [
            # Who names a GPU names its instances, of which one may be all that is visible.
            each
            for each in present
            if named is None or not {each.uuid, each.parent_uuid, str(each.index)}.isdisjoint(named)
        ]
        whole = {device.uuid for device in chosen}
        return [device for device in chosen if device.parent_uuid not in whole]

    def note(self, samples: Sequence[Sample]) -> None:
        """Takes one round of samples of all devices there are."""
        work, tallies = self.look(), self.tallies or {}
        before = self._memory_bytes() if self._peak_bytes is None else self._peak_bytes
        for sample in samples:
            if (tally := tallies.get(sample.uuid)) is not None:
                tally.note(sample, work)
        now = self._memory_bytes()
        if now is not None:
            is_begun = any(tally.is_begun for tally in tallies.values())
            self._peak_bytes = max(now, before or 0) if is_begun else now

    def use(self) -> GPUUse | None:
        """The outcome so far; None where it met no device."""
        if not self.tallies:
            return None
        tallies = self.tallies.values()
        devices = tuple(tally.use(section=self.section) for tally in tallies)
        known = all(device.energy_j is not None for device in devices)
        return GPUUse(
            devices=devices,
            memory_peak_bytes=self._peak_bytes,
            energy_uncertainty_j=uncertainty_j([tally.energy for tally in tallies]) if known else None,
        )

    def _memory_bytes(self) -> int | None:
        """Memory in use on all its devices together; None where one of them does not tell."""
        held = [tally.memory_bytes for tally in (self.tallies or {}).values()]
        known = [each for each in held if each is not None]
        return sum(known) if known and len(known) == len(held) else None


def clip(work: Work, window: EnergyWindow) -> tuple[int, int]:
    """The part of a window in which a request was in flight, as begin and end; empty where end is not after begin."""
    end = window.end_ns if work.ended_ns is None else min(window.end_ns, work.ended_ns)
    return max(window.start_ns, work.begun_ns), end


def _decoded_until(tokens: Sequence[int], moment_ns: int) -> float:
    """Tokens after the first that were computed by then, with the part that was done of the one to come."""
    come = bisect_right(tokens, moment_ns)
    if come == 0 or come >= len(tokens):
        return max(0.0, come - 1.0)
    last, following = tokens[come - 1], tokens[come]
    return come - 1 + (moment_ns - last) / (following - last)
