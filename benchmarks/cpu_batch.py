"""What small batches cost a CPU server when it reads prompts, and what they save everybody else.

Run: python benchmarks/cpu_batch.py [--rounds N] [--threads N] [--json]

Two real llama.cpp servers take turns in one run: one with the batches this project chooses for a CPU,
one with the 512 tokens that llama.cpp computes at once by itself (and it looks up only after four of
those). Measured are the speed of reading a prompt, the time until a slot is free after its request was
cancelled while it read, and the longest pause of an answer that streams while another slot reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable

from report import Row, report

from llamatelemetry.llama import LlamaClient, LlamaServer
from llamatelemetry.llama.embedded import CPU_BATCH_PER_THREAD
from llamatelemetry.llama.gguf import GgufFile
from llamatelemetry.llama.launch import LaunchOptions
from llamatelemetry.llama.model_files import demo_model

LLAMA_CPP_BATCH = 512
WORDS = ("apple", "river", "stone", "cloud", "green", "seven", "horse", "paper")
LONG, SHORT = 900, 480
DICE = random.Random(1)  # noqa: S311 - repeatable, and nobody's secret


class BatchServer(LlamaServer):
    """A server with the batch it is told."""

    def __init__(self, batch: int, threads: int) -> None:
        super().__init__(demo_model(), slots=2, context_length=2048, threads=threads)
        self._batch = batch

    def _launch_options(self, gguf: GgufFile) -> LaunchOptions:
        return dataclasses.replace(super()._launch_options(gguf), batch=self._batch)


def prompt(tokens: int) -> str:
    """A text of about as many tokens that no cache has seen."""
    return " ".join(DICE.choice(WORDS) for _ in range(tokens))


def prefill_tps(client: LlamaClient) -> float:
    """Tokens read in a second, by the server's own clock."""
    timings = list(client.complete({"prompt": prompt(LONG), "n_predict": 1}, id_slot=0))[-1].timings
    assert timings is not None
    assert timings.prompt_tokens is not None
    assert timings.prompt_ms is not None
    return timings.prompt_tokens / timings.prompt_ms * 1e3


def release_ms(client: LlamaClient) -> float:
    """From the cancel of a request that reads its prompt to its slot's first sign of the next one."""
    stream = client.complete({"prompt": prompt(LONG), "n_predict": 1}, id_slot=0)
    next(stream)
    time.sleep(DICE.uniform(0.1, 1.0))
    stream.close()
    begun = time.perf_counter()
    with client.complete({"prompt": "a", "n_predict": 1}, id_slot=0) as following:
        next(following)
    return (time.perf_counter() - begun) * 1e3


def longest_pause_ms(client: LlamaClient) -> float:
    """The longest time between two tokens of an answer, beside another slot's new prompt."""
    other = threading.Timer(0.3, lambda: list(client.complete({"prompt": prompt(SHORT), "n_predict": 1}, id_slot=1)))
    other.start()
    answer = client.complete({"prompt": "Once", "n_predict": 200, "ignore_eos": True}, id_slot=0)
    times = [time.perf_counter() for chunk in answer if chunk.content]
    other.join()
    return max(later - sooner for sooner, later in itertools.pairwise(times)) * 1e3


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    small = CPU_BATCH_PER_THREAD * arguments.threads
    figures: tuple[tuple[str, str, Callable[[LlamaClient], float]], ...] = (
        ("prompt tokens read a second", "tokens/s", prefill_tps),
        ("slot free after a cancel, median", "ms", release_ms),
        ("longest pause of a streaming answer, median", "ms", longest_pause_ms),
    )
    rows = []
    with (
        BatchServer(small, arguments.threads) as ours,
        BatchServer(LLAMA_CPP_BATCH, arguments.threads) as theirs,
        LlamaClient(ours.url) as chosen,
        LlamaClient(theirs.url) as plain,
    ):
        for name, unit, measure in figures:
            pairs = [(measure(chosen), measure(plain)) for _ in range(arguments.rounds)]
            value, baseline = (statistics.median(side) for side in zip(*pairs, strict=True))
            rows.append(Row(name=name, value=value, unit=unit, baseline=baseline))
    report(f"Batches of {small} tokens against {LLAMA_CPP_BATCH}, on {arguments.threads} thread(s)", rows)


if __name__ == "__main__":
    main()
