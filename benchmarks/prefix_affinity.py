"""Cached prompt tokens and time to first token with prefix affinity, against order of arrival.

Run: python benchmarks/prefix_affinity.py [--rounds N] [--json]

One real llama.cpp server with two slots, and eight conversations whose system prompts are long and
differ. Every round each of them asks one short question, all at once. In order of arrival a slot
sees another conversation each time; with affinity, requests that share a prefix follow each other.
Both policies meet the same server in the same run, with prompts of their own so that neither finds
what the other left. The server's store of prompts that left their slots is off: it holds these small
ones all, and hides what a slot's own cache is worth.
"""

from __future__ import annotations

import argparse
import statistics

from report import Row, report

from llamatelemetry import InferenceEngine, InferenceRequest, InferenceResult, SamplingParams
from llamatelemetry.inference.policy import FIFO, SchedulerConfig
from llamatelemetry.llama import LlamaServer
from llamatelemetry.llama.model_files import demo_model

CONVERSATIONS = 8
SLOTS = 2
AFFINITY = SchedulerConfig(prefix_window=CONVERSATIONS * 4)


def requests(name: str, rounds: int) -> list[InferenceRequest]:
    """What all conversations ask, interleaved as they would arrive."""
    return [
        InferenceRequest(
            messages=[
                {"role": "system", "content": f"{name} {talk}. " + f"You know everything about topic {talk}. " * 16},
                {"role": "user", "content": f"Question {number}?"},
            ],
            max_tokens=4,
            sampling=SamplingParams(temperature=0),
        )
        for number in range(rounds)
        for talk in range(CONVERSATIONS)
    ]


def measure(url: str, name: str, scheduling: SchedulerConfig, rounds: int) -> list[InferenceResult]:
    """Sends everything at once and returns the answers."""
    with InferenceEngine("llamacpp", server_url=url, scheduling=scheduling) as engine:
        return [future.result() for future in [engine.submit(request) for request in requests(name, rounds)]]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    rounds = parser.parse_args().rounds
    with LlamaServer(demo_model(), slots=SLOTS, context_length=512, threads=1, cache_ram_mib=0) as server:
        arrival = measure(server.url, "Alpha", FIFO, rounds)
        affinity = measure(server.url, "Omega", AFFINITY, rounds)
    report(
        f"Prefix affinity against order of arrival: {CONVERSATIONS} conversations on {SLOTS} slots",
        [
            Row(
                name="cached prompt tokens",
                value=sum(result.cached_tokens or 0 for result in affinity),
                unit="tokens",
                baseline=sum(result.cached_tokens or 0 for result in arrival),
            ),
            Row(
                name="prompt tokens",
                value=sum(result.input_tokens or 0 for result in affinity),
                unit="tokens",
                baseline=sum(result.input_tokens or 0 for result in arrival),
            ),
            Row(
                name="median time to first token",
                value=statistics.median(result.ttft_ms or 0 for result in affinity),
                unit="ms",
                baseline=statistics.median(result.ttft_ms or 0 for result in arrival),
            ),
        ],
    )


if __name__ == "__main__":
    main()
