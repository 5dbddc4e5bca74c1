"""Measures one instrumentation in a process of its own, because they patch what the whole process uses.

Run by instrumentation_overhead.py: python -m instrumentations.measure CONTENDER FILE PAIRS

Calls with and without it take turns, in short blocks, within the one process: whatever else slows it
down slows both. What it put in place is found by comparing transformers before and after, and is
swapped in and out between blocks.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from instrumentations.calls import CALLS, Call, CountingModel, put_quick_generate, truth
from instrumentations.contenders import CONTENDERS, Contender, Memory, Settle, requests_of
from instrumentations.replay import points, sdk_us, since
from transformers import TextGenerationPipeline

TOKENS = 64
"""Of a call whose cost is measured."""
FEW, MANY = 16, 272
"""Of two calls whose difference is what tokens cost."""
BLOCK = 8
"""Calls between two swaps."""
WARM = 12
"""Calls after a swap, which empties the interpreter's caches, before any is measured."""
SEEN_TOKENS = 16
FIRST_S, STEP_S = 0.03, 0.002

_ABSENT: Final = object()
Snapshot = dict[int, tuple[Any, dict[str, Any]]]


def _loaded() -> Iterator[Any]:
    """Every module of transformers that is imported, and every class in them."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "transformers":
            yield module
            yield from (thing for thing in list(vars(module).values()) if isinstance(thing, type))


class Patches:
    """What an instrumentation put into transformers, to be taken out and put back."""

    def __init__(self) -> None:
        self._before: Snapshot = {id(owner): (owner, dict(vars(owner))) for owner in _loaded()}
        self._places: list[tuple[Any, str, Any, Any]] = []

    def find(self) -> int:
        """Compares with what was there when this was made; returns in how many places it differs."""
        for owner, before in self._before.values():
            for name, now in dict(vars(owner)).items():
                was = before.get(name, _ABSENT)
                # Modules of transformers fill up as names are looked up.
                if was is not now and (was is not _ABSENT or isinstance(owner, type)):
                    self._places.append((owner, name, was, now))
        return len(self._places)

    def out(self) -> None:
        """As it was."""
        for owner, name, was, _ in self._places:
            if was is not _ABSENT:
                setattr(owner, name, was)
            elif name in vars(owner):
                delattr(owner, name)

    def back(self) -> None:
        """As it was put."""
        for owner, name, _, now in self._places:
            setattr(owner, name, now)


class Bench:
    """One contender, switched on in this process."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._memory = Memory()
        self._plain = {call.name: call.prepare(CountingModel())(SEEN_TOKENS) for call in CALLS}
        put_quick_generate()
        self._quick = CountingModel(quick=True)
        self._bare = {call.name: self._counted(call) for call in CALLS}
        assert all(_same(self._bare[name](SEEN_TOKENS), plain) for name, plain in self._plain.items())
        self._patches = Patches()
        self._settle: Settle = contender.switch_on()
        self.places = self._patches.find()
        self._measured = {call.name: self._counted(call) for call in CALLS}

    def _counted(self, call: Call) -> Callable[[int], Any]:
        return call.prepare(self._quick)

    def seen(self, call: Call) -> dict[str, Any]:
        """What it says of one call that takes its time, and what is true of it."""
        slow = CountingModel(first_s=FIRST_S, step_s=STEP_S)
        ask = call.prepare(slow)
        self._memory.clear()
        slow.asked()
        start = time.perf_counter()
        error, same = "", False
        try:
            same = _same(ask(SEEN_TOKENS), self._plain[call.name])
        except Exception as raised:  # noqa: BLE001  an instrumentation that breaks the call is a finding
            error = type(raised).__name__
        self._settle()
        names = self._contender.names.items()
        return {
            "truth": {**asdict(truth(call.prompts, SEEN_TOKENS)), "first_s": slow.first_token_at - start},
            "error": error,
            "same_answer": same,
            "requests": [
                {figure: span[name] for figure, name in names if name in span}
                for span in requests_of(self._memory.spans.get_finished_spans())
            ],
        }

    def sdk_us(self, call: Call) -> float:
        """What the SDK alone takes for the telemetry of one call."""
        self._memory.clear()
        before = points(self._memory.metrics)
        self._measured[call.name](TOKENS)
        self._settle()
        measured = since(before, points(self._memory.metrics))
        spans = self._memory.spans.get_finished_spans()
        self._patches.out()
        found = sdk_us(spans, measured, partial(self._bare[call.name], TOKENS))
        self._patches.back()
        return found

    def costs_us(self, call: Call, tokens: int, pairs: int) -> list[tuple[float, float]]:
        """What one call costs more, pair by pair: microseconds of CPU of all threads, and of the caller's."""
        bare, measured = self._bare[call.name], self._measured[call.name]
        found = []
        for pair in range(pairs):
            blocks = {True: (0.0, 0.0), False: (0.0, 0.0)}
            for with_it in (True, False) if pair % 2 else (False, True):
                (self._patches.back if with_it else self._patches.out)()
                blocks[with_it] = self._spent(measured if with_it else bare, tokens)
            found.append(tuple((on - off) / BLOCK * 1e6 for on, off in zip(blocks[True], blocks[False], strict=True)))
        self._patches.back()
        return found  # type: ignore[return-value]

    def _spent(self, ask: Callable[[int], Any], tokens: int) -> tuple[float, float]:
        for _ in range(WARM):
            ask(tokens)
        self._settle()
        here, everywhere = 0.0, time.process_time()
        for _ in range(BLOCK):
            start = time.thread_time()
            ask(tokens)
            here += time.thread_time() - start
            self._settle()  # As if the next call came later: two threads at once cost more than one after the other.
        everywhere = time.process_time() - everywhere
        self._memory.clear()
        return everywhere, here


def _same(answer: Any, plain: Any) -> bool:
    return bool(torch.equal(answer, plain) if isinstance(plain, torch.Tensor) else answer == plain)


def main() -> None:
    """Measures the contender that the command line names, and writes what was found to a file."""
    name, path, pairs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    # Imported now, so that all that will be patched is there to be compared.
    assert TextGenerationPipeline
    bench = Bench(CONTENDERS[name])
    gc.collect()
    gc.freeze()
    found: dict[str, Any] = {
        "places": bench.places,
        "seen": {},
        "call_us": {},
        "sdk_us": {},
        "few_us": [],
        "many_us": [],
    }
    for call in CALLS:
        found["seen"][call.name] = bench.seen(call)
        if not found["seen"][call.name]["error"]:
            found["call_us"][call.name] = bench.costs_us(call, TOKENS, pairs)
            found["sdk_us"][call.name] = bench.sdk_us(call)
    found["few_us"] = bench.costs_us(CALLS[0], FEW, pairs)
    found["many_us"] = bench.costs_us(CALLS[0], MANY, pairs)
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
