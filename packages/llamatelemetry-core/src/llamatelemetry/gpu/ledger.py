"""The ledger: whose energy and memory it was, kept while requests run and samples come in.

The sampler's thread feeds it. Each device's windows wait a moment, until a request that ended needs
them or they are old; then each is divided once and for all among the requests that were in flight in
it. So the shares of all requests, the idle part and the rest add up to what the meter read, whoever
asks when.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from llamatelemetry.forks import after_fork
from llamatelemetry.gpu.account import Account, Tally, clip
from llamatelemetry.gpu.device import GPUDevice, GPUProcess
from llamatelemetry.gpu.energy import EnergyWindow, WorkWeights, split_window
from llamatelemetry.gpu.energy_windows import IdlePower, WindowMaker
from llamatelemetry.gpu.snapshot import Sample, Tick
from llamatelemetry.gpu.totals import EnergyTotals
from llamatelemetry.gpu.use import GPUUse
from llamatelemetry.inference.metering import PendingUse, Work, WorkInProgress

_LAG_NS: Final = 2_000_000_000
"""How long a window waits at most, so that prompts that are being computed in it can be weighed."""

_MAX_ARRIVALS: Final = 8192
"""Requests that may begin between two samples; more than that, as when sampling hangs, are not measured."""

_log = logging.getLogger(__name__)


class GPULedger:
    """Accounts of requests and sections. Implements :class:`~llamatelemetry.inference.metering.RequestMeter`.

    Args:
        devices: The devices that are sampled.
        processes: What runs on each device, by UUID, as far as the driver tells.
        wake: Starts the sampling again where a fork has ended it.
        patience_s: Most seconds to wait for an outcome after a request's end.
        weights: What the work of requests costs.
        idle_power_w: What a device draws when idle, in watts; None takes the least that was seen.
    """

    def __init__(
        self,
        devices: Callable[[], Sequence[GPUDevice]],
        processes: Callable[[], Mapping[str, tuple[GPUProcess, ...]]],
        *,
        wake: Callable[[], object],
        patience_s: float,
        weights: WorkWeights | None = None,
        idle_power_w: float | None = None,
    ) -> None:
        self._devices = devices
        self._wake = wake
        self._processes = processes
        self._patience_s = patience_s
        self._weights = weights or WorkWeights()
        self._idle_power_w = idle_power_w
        self._reset()
        # A child process has no requests of its parent's, and must not wait for a lock that nobody there holds.
        after_fork(self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._arrivals: deque[Account] = deque()
        self._accounts: list[Account] = []
        self._meters: dict[str, _DeviceMeter] = {}
        self._ticks = 0
        self._hung_at: int | None = None
        self._stopped = False

    def begin(self, work: WorkInProgress) -> PendingUse | None:
        """Takes note of a request that was sent to its backend."""
        served_by = work.served_by
        return self.open(Account(work.work, gpus=served_by.gpus, pid=served_by.pid))

    def open(self, account: Account) -> PendingUse | None:
        """Takes an account in; None where no device can be meant or nothing is measured any more."""
        if self._stopped or account.gpus == () or len(self._arrivals) >= _MAX_ARRIVALS:
            return None
        self._arrivals.append(account)
        if not self._ticks:
            self._wake()
        return _Pending(self, account)

    def on_tick(self, tick: Tick) -> None:
        """Takes a round of samples; the sampler calls it in its thread."""
        with self._changed:
            while self._arrivals:
                self._accounts.append(self._attached(self._arrivals.popleft()))
            for sample in tick.samples:
                self._take(sample)
            for account in self._accounts:
                account.note(tick.samples)
            done = self._settle(tick.monotonic_ns)
            self._ticks += 1
            self._changed.notify_all()
        _tell(done)

    def totals(self) -> Mapping[str, EnergyTotals]:
        """Where each device's energy went, of the windows that are divided already; by UUID."""
        with self._changed:
            return {uuid: meter.totals() for uuid, meter in self._meters.items()}

    def wait(self, account: Account, timeout_s: float | None) -> GPUUse | None:
        """The outcome of an account, waited for within bounds; what is known when time is up."""
        patience_s = self._patience_s if timeout_s is None else timeout_s
        with self._changed:
            if not account.done and self._hung_at != self._ticks:
                ticks = self._ticks
                told = self._changed.wait_for(lambda: account.done or self._stopped, patience_s)
                if not told and self._ticks == ticks and patience_s >= self._patience_s:
                    self._hung_at = ticks  # Whoever asks before the next sample need not wait as well.
            return account.use()

    def settle(self, timeout_s: float) -> bool:
        """Waits until every section and request that has ended is told; False if time ran out."""
        with self._changed:
            open_now = [*self._accounts, *self._arrivals]
            ended = [account for account in open_now if account.look().ended_ns is not None]
            return self._changed.wait_for(lambda: self._stopped or all(each.done for each in ended), timeout_s)

    def stop(self) -> None:
        """Closes every account with what is known; nothing is measured any more."""
        with self._changed:
            self._stopped = True
            done, self._accounts = [*self._accounts, *self._arrivals], []
            self._arrivals.clear()
            for account in done:
                account.done = True
            self._changed.notify_all()
        _tell(done)

    def _attached(self, account: Account) -> Account:
        account.tallies = {
            device.uuid: Tally(device, meter.last if (meter := self._meters.get(device.uuid)) else None)
            for device in account.devices_of(self._devices())
        }
        return account

    def _take(self, sample: Sample) -> None:
        meter = self._meters.get(sample.uuid)
        if meter is None:
            meter = self._meters[sample.uuid] = _DeviceMeter(self._idle_power_w)
        meter.take(sample)

    def _settle(self, now_ns: int) -> list[Account]:
        looks = [(account, account.look()) for account in self._accounts]
        needed_ns = max((work.ended_ns for _, work in looks if work.ended_ns is not None), default=0)
        running = None
        for uuid, meter in self._meters.items():
            while meter.waiting and (
                meter.waiting[0].start_ns < needed_ns or meter.waiting[0].end_ns < now_ns - _LAG_NS
            ):
                running = self._processes() if running is None else running
                meter.divide(
                    meter.waiting.popleft(),
                    uuid=uuid,
                    looks=looks,
                    running=running.get(uuid),
                    weights=self._weights,
                    now_ns=now_ns,
                )
        done = [account for account, work in looks if self._is_complete(account, work, now_ns)]
        for account in done:
            account.done = True
        if done:
            self._accounts = [account for account in self._accounts if not account.done]
        return done

    def _is_complete(self, account: Account, work: Work, now_ns: int) -> bool:
        ended = work.ended_ns
        if ended is None or now_ns < ended:
            return False
        return all(self._meters[uuid].is_past(ended) for uuid in account.tallies or () if uuid in self._meters)


class _DeviceMeter:
    """One device's windows, those that wait to be divided and where the others went."""

    def __init__(self, idle_power_w: float | None) -> None:
        self.last: Sample | None = None
        self.waiting: deque[EnergyWindow] = deque()
        self._maker = WindowMaker()
        self._idle = IdlePower()
        self._idle_power_w = idle_power_w
        self._requests_j = self._idle_j = self._unattributed_j = 0.0

    def take(self, sample: Sample) -> None:
        self.last = sample
        window = self._maker.feed(sample.monotonic_ns, sample.fast.energy_mj, sample.fast.power_w)
        if window is not None:
            self._idle.feed(window)
            self.waiting.append(window)

    def is_past(self, moment_ns: int) -> bool:
        """Whether all that was drawn before a moment is divided."""
        since = self.waiting[0].start_ns if self.waiting else self._maker.open_since_ns
        return since is None or since >= moment_ns

    def divide(
        self,
        window: EnergyWindow,
        *,
        uuid: str,
        looks: Sequence[tuple[Account, Work]],
        running: tuple[GPUProcess, ...] | None,
        weights: WorkWeights,
        now_ns: int,
    ) -> None:
        here = [
            (account, tally, tally.claim(work, window, now_ns))
            for account, work in looks
            if (tally := (account.tallies or {}).get(uuid)) is not None and _overlaps(work, window)
        ]
        requests = [entry for entry in here if not entry[0].section]
        attributable = _share_of({account.pid for account, _, _ in requests}, running)
        idle_w = self._idle.watts if self._idle_power_w is None else self._idle_power_w
        split = split_window(
            window,
            [claim for _, _, claim in requests],
            idle_w=idle_w,
            weights=weights,
            attributable=1.0 if attributable is None else attributable,
        )
        for (account, tally, claim), share_j, margin_j in zip(requests, split.shares_j, split.margins_j, strict=True):
            tally.energy.add(window, claim, share_j=share_j, margin_j=margin_j)
            tally.divided_from("device" if attributable is None else "process")
            tally.process_memory_bytes = _memory_of(account.pid, running)
        for account, tally, claim in here:
            if account.section:
                part = claim.overlap_ns / (window.end_ns - window.start_ns)
                tally.energy.add(window, claim, share_j=(window.energy_j - split.idle_j) * part, margin_j=0.0)
                tally.idle_j += split.idle_j * part
        self._requests_j += sum(split.shares_j)
        self._idle_j += split.idle_j
        self._unattributed_j += split.unattributed_j

    def totals(self) -> EnergyTotals:
        return EnergyTotals(requests_j=self._requests_j, idle_j=self._idle_j, unattributed_j=self._unattributed_j)


class _Pending:
    """A request's way to its account."""

    __slots__ = ("_account", "_ledger")

    def __init__(self, ledger: GPULedger, account: Account) -> None:
        self._ledger = ledger
        self._account = account

    def wait(self, timeout_s: float | None = None) -> GPUUse | None:
        return self._ledger.wait(self._account, timeout_s)


def _overlaps(work: Work, window: EnergyWindow) -> bool:
    begin, end = clip(work, window)
    return begin < end


def _share_of(ours: set[int | None], running: tuple[GPUProcess, ...] | None) -> float | None:
    """Our processes' part of what keeps a device busy; None where the driver does not tell, or not of ours.

    In a container the driver may count processes in another namespace: then none of them is ours. Neither
    is a request whose process nobody knows, so beside one no other's part can be taken off.
    """
    if not running or not ours or not ours <= {process.pid for process in running}:
        return None
    if any(process.utilization is None for process in running):
        return None
    busy = sum(process.utilization or 0.0 for process in running)
    return sum(process.utilization or 0.0 for process in running if process.pid in ours) / busy if busy else None


def _memory_of(pid: int | None, running: tuple[GPUProcess, ...] | None) -> int | None:
    return next((process.memory_bytes for process in running or () if process.pid == pid), None)


def _tell(done: Sequence[Account]) -> None:
    for account in done:
        if account.on_done is not None:
            try:
                account.on_done(account.use())
            except Exception:  # noqa: BLE001 - telemetry loses one section's figures, and goes on
                _log.warning("what a section did to the GPUs could not be told", exc_info=True)
