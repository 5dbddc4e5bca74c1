"""How far the division of energy among requests is from the Shapley value, and from one with a real meter.

Run: python benchmarks/energy_attribution.py [--json] [--workloads N]

No GPU is needed or measured: a model of one (energy_reference/device.py) serves random workloads of
one to eight requests that overlap, and the exact Shapley value is computed from all 2^n coalitions, for
each of which the model is run again. Then the engine's arithmetic divides the same energy from what an
engine knows: when each request was in flight, how long its prompt was, and when its tokens came.

A distance is a request's difference from its Shapley value, as a percentage of the energy above idle of
the whole workload. The baseline of the first table is an equal split among those in flight. The last
table reads the energy from a counter that moves at 10 Hz, at 10 Hz with jitter, finds the idle power
itself, and says how often the Shapley value is within the uncertainty that is reported.
"""

from __future__ import annotations

import argparse
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from random import Random
from statistics import mean, median, quantiles

from energy_reference.device import Device, Request, Step, in_place, replayed, run, token_times, workload
from report import Row, report

from llamatelemetry.gpu.energy import Claim, EnergyMethod, EnergyWindow, RequestEnergy, WorkWeights, split_window
from llamatelemetry.gpu.energy_windows import IdlePower, WindowMaker

SIZES = range(1, 9)
IDLE_W = 28.0
SAMPLE_S, JITTER_S, COUNTER_S = 0.1, 0.005, 0.1
QUIET_S = 3.0
"""Before the first request and after the last."""

WEIGHTS = WorkWeights()
PROMPT_TOKEN_J = 0.03
DEVICE = Device(
    step_j=WEIGHTS.decode_step * PROMPT_TOKEN_J,
    prefill_token_j=WEIGHTS.prefill_token * PROMPT_TOKEN_J,
    decode_token_j=WEIGHTS.decode_token * PROMPT_TOKEN_J,
)
DEVICES = {
    "weights as assumed": DEVICE,
    "power limit": replace(DEVICE, limit_w=40.0),
    "decoding 4 times dearer": replace(DEVICE, token_s=DEVICE.token_s / 4, prefill_token_j=DEVICE.prefill_token_j / 4),
    "decoding 4 times cheaper": replace(DEVICE, token_s=DEVICE.token_s * 4, prefill_token_j=DEVICE.prefill_token_j * 4),
}
Parts = Callable[[Sequence[Claim]], Sequence[float]]


def one_price(claims: Sequence[Claim]) -> list[float]:
    """A decoded token costs what it costs a request that is alone."""
    alone = WEIGHTS.decode_step + WEIGHTS.decode_token
    return [claim.prefill_tokens + alone * claim.decode_tokens for claim in claims]


def steps_by_tokens(claims: Sequence[Claim]) -> list[float]:
    """Steps, as many as the request with most tokens had, are divided in proportion to tokens."""
    decode = [claim.decode_tokens for claim in claims]
    token = WEIGHTS.decode_token + WEIGHTS.decode_step * max(decode) / (sum(decode) or 1.0)
    return [claim.prefill_tokens + token * claim.decode_tokens for claim in claims]


def ours(claims: Sequence[Claim]) -> tuple[float, ...]:
    """What the engine does."""
    window = EnergyWindow(start_ns=0, end_ns=1, energy_j=1.0, method=EnergyMethod.COUNTER, step_j=0.0)
    return split_window(window, claims, idle_w=None, weights=WEIGHTS).shares_j


RULES: dict[str, Parts] = {
    "equal": lambda claims: [1.0] * len(claims),
    "time": lambda claims: [float(claim.overlap_ns) for claim in claims],
    "tokens": lambda claims: [claim.prefill_tokens + claim.decode_tokens for claim in claims],
    "work, one price a token": one_price,
    "work, steps by tokens": steps_by_tokens,
    "work, steps shared (ours)": ours,
}


class Meter:
    """The energy of a run: what was drawn until when, idle power and all."""

    def __init__(self, steps: Sequence[Step], idle_w: float) -> None:
        self._moments = [0.0, *(step.end_s for step in steps)]
        self._steps = steps
        self._drawn = [0.0, *accumulate(step.energy_j for step in steps)]
        self._idle_w = idle_w
        self.end_s = steps[-1].end_s

    def joules(self, moment_s: float) -> float:
        """Drawn since long before the first request."""
        done = bisect_right(self._moments, moment_s) - 1
        above = self._drawn[max(0, done)]
        if 0 <= done < len(self._steps):
            step = self._steps[done]
            above += step.energy_j * max(0.0, moment_s - step.start_s) / (step.end_s - step.start_s)
        return above + self._idle_w * (moment_s + 2 * QUIET_S)

    def exact(self) -> Iterator[EnergyWindow]:
        """Windows of a perfect meter."""
        edges = [i * SAMPLE_S for i in range(math.ceil(self.end_s / SAMPLE_S) + 1)]
        for start, end in pairwise(edges):
            yield EnergyWindow(
                start_ns=round(start * 1e9),
                end_ns=round(end * 1e9),
                energy_j=self.joules(end) - self.joules(start),
                method=EnergyMethod.COUNTER,
                step_j=0.0,
            )

    def read(self, dice: Random) -> Iterator[EnergyWindow]:
        """Windows as a sampler gets them from a counter that moves ten times a second."""
        maker, phase_s = WindowMaker(), dice.uniform(0.0, COUNTER_S)
        for i in range(round(-QUIET_S / SAMPLE_S), math.ceil((self.end_s + QUIET_S) / SAMPLE_S)):
            now_s = i * SAMPLE_S + dice.uniform(-JITTER_S, JITTER_S)
            moved_s = math.floor((now_s - phase_s) / COUNTER_S) * COUNTER_S + phase_s
            # Millijoules since the driver was loaded, in whole numbers.
            window = maker.feed(round(now_s * 1e9), round(self.joules(moved_s) * 1000), None)
            if window is not None:
                yield window


class Known:
    """What an engine knows of the requests, cut to windows."""

    def __init__(self, requests: Sequence[Request], steps: Sequence[Step]) -> None:
        self._requests = requests
        self._tokens = token_times(requests, steps)

    def claims(self, window: EnergyWindow) -> list[tuple[int, Claim]]:
        """Who was in flight in a window, and did what."""
        found = []
        start, end = window.start_ns * 1e-9, window.end_ns * 1e-9
        for i, (request, tokens) in enumerate(zip(self._requests, self._tokens, strict=True)):
            overlap_s = min(end, tokens[-1]) - max(start, request.arrival_s)
            if overlap_s <= 0:
                continue
            prompt_s = max(0.0, min(end, tokens[0]) - max(start, request.arrival_s))
            claim = Claim(
                overlap_ns=max(1, round(overlap_s * 1e9)),
                prefill_tokens=request.prompt_tokens * prompt_s / (tokens[0] - request.arrival_s),
                decode_tokens=float(bisect_right(tokens, end) - bisect_right(tokens, start)),
            )
            found.append((i, claim))
        return found


def divided(windows: Sequence[EnergyWindow], known: Known, size: int, rule: Parts) -> list[float]:
    """The requests' energies by a rule, with nothing idle."""
    total = [0.0] * size
    for window in windows:
        here = known.claims(window)
        claims = [claim for _, claim in here]
        parts = rule(claims) if claims else []
        if not any(parts):
            parts = RULES["time"](claims)
        whole = math.fsum(parts)
        for (i, _), part in zip(here, parts, strict=True):
            total[i] += window.energy_j * part / whole
    return total


def attributed(windows: Iterator[EnergyWindow], known: Known, size: int) -> list[RequestEnergy]:
    """The requests' energies as the engine keeps them."""
    idle, total = IdlePower(), [RequestEnergy() for _ in range(size)]
    for window in windows:
        idle.feed(window)
        here = known.claims(window)
        split = split_window(window, [claim for _, claim in here], idle_w=idle.watts, weights=WEIGHTS)
        for (i, claim), share_j, margin_j in zip(here, split.shares_j, split.margins_j, strict=True):
            total[i].add(window, claim, share_j=share_j, margin_j=margin_j)
    return total


def workloads(size: int, count: int) -> Iterator[list[Request]]:
    """The same random workloads each time."""
    for number in range(count):
        yield workload(Random(size * 1_000_003 + number), size)  # noqa: S311 - repeatable, and nobody's secret


Game = Callable[[Device, Sequence[Request]], list[float]]


def distances(device: Device, game: Game, size: int, count: int) -> dict[str, list[float]]:
    """For each rule, all requests' distances from the Shapley value, in percent of the whole."""
    found: dict[str, list[float]] = {name: [] for name in RULES}
    for requests in workloads(size, count):
        fair = game(device, requests)
        steps = run(device, requests)
        windows, known = list(Meter(steps, 0.0).exact()), Known(requests, steps)
        whole = math.fsum(fair)
        for name, rule in RULES.items():
            shares = divided(windows, known, size, rule)
            found[name] += [abs(ours - theirs) / whole * 100 for ours, theirs in zip(shares, fair, strict=True)]
    return found


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return quantiles(values, n=20, method="inclusive")[-1]


def table_of_rules(count: int) -> list[Row]:
    """Mean and 95th percentile of the distance for each number of requests and each rule."""
    rows = []
    for size in SIZES:
        found = distances(DEVICE, replayed, size, count)
        for name, values in found.items():
            for figure, value, base in (
                ("mean", mean(values), mean(found["equal"])),
                ("p95", p95(values), p95(found["equal"])),
            ):
                rows.append(Row(name=f"{size} requests, {name}, {figure}", value=value, unit="%", baseline=base))
    return rows


def table_of_devices(count: int) -> list[Row]:
    """The same where the device is not as the weights assume, and for both games, of eight requests."""
    rows = []
    for label, device in DEVICES.items():
        for game in (replayed, in_place):
            found = distances(device, game, SIZES[-1], count)
            for name, values in found.items():
                rows += [
                    Row(name=f"{label}, {game.__name__}, {name}, mean", value=mean(values), unit="%"),
                    Row(name=f"{label}, {game.__name__}, {name}, p95", value=p95(values), unit="%"),
                ]
    return rows


def table_of_meters(count: int) -> list[Row]:
    """With a counter and idle power that are read: distances, and how good the uncertainty is."""
    rows = []
    for label, device in DEVICES.items():
        for size in (1, 2, 4, 8):
            found: list[tuple[float, float, float]] = []
            dice = Random(size)  # noqa: S311 - repeatable, and nobody's secret
            for requests in workloads(size, count):
                fair = replayed(device, requests)
                steps = run(device, requests)
                ours = attributed(Meter(steps, IDLE_W).read(dice), Known(requests, steps), size)
                found += [
                    (abs(one.energy_j - its), one.uncertainty_j, its) for one, its in zip(ours, fair, strict=True)
                ]
            name = f"{label}, {size} requests, 10 Hz counter"
            rows += [
                Row(name=f"{name}, off, median", value=median(off / its * 100 for off, _, its in found), unit="% own"),
                Row(
                    name=f"{name}, uncertainty, median",
                    value=median(u / its * 100 for _, u, its in found),
                    unit="% own",
                ),
                Row(name=f"{name}, within it", value=mean(off <= u for off, u, _ in found) * 100, unit="% of all"),
            ]
    return rows


def main() -> None:
    """Computes and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workloads", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    count = parser.parse_args().workloads
    report(
        f"Distance from the Shapley value, {count} workloads each",
        [*table_of_rules(count), *table_of_devices(count), *table_of_meters(count)],
    )


if __name__ == "__main__":
    main()
