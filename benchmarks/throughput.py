"""Throughput through the engine against the same requests sent straight to the same server.

Run: python benchmarks/throughput.py [--json]

One real llama.cpp server with eight slots. Direct means one thread per request in flight that reads
the same stream over HTTP and counts its chunks. The two take turns, so that a noisy machine
disturbs both, and the ratio is of their totals.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from report import Row, report
from urllib3.util import Retry

import llamatelemetry
from llamatelemetry import InferenceEngine, InferenceRequest, SamplingParams
from llamatelemetry.llama import LlamaCppBackend, LlamaServer
from llamatelemetry.llama.model_files import demo_model

SLOTS = 8
TOKENS = 32
PER_WORKER = 3
ROUNDS = 5


NUMBERS = itertools.count(1000)


def prompt() -> list[dict[str, str]]:
    """Messages that no other request shares, so that neither way finds in a slot what the other left."""
    return [{"role": "user", "content": f"{next(NUMBERS)} is a number. Write a short story about it."}]


def straight(url: str, concurrent: int) -> float:
    """Seconds for every request over plain HTTP."""
    session = requests.Session()
    # The server may close an idle connection just as it is used again.
    again = Retry(total=2, allowed_methods=None)
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=SLOTS, max_retries=again))

    def ask(_: int) -> int:
        body = {
            "messages": prompt(),
            "max_tokens": TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        chunks = 0
        with session.post(f"{url}/v1/chat/completions", json=body, stream=True, timeout=120) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                    chunks += 1
        return chunks

    start = time.monotonic()
    with ThreadPoolExecutor(concurrent) as pool:
        assert all(pool.map(ask, range(concurrent * PER_WORKER)))
    session.close()
    return time.monotonic() - start


def engined(engine: InferenceEngine, concurrent: int) -> float:
    """Seconds for the same requests through the engine, with telemetry on."""

    def ask(_: int) -> int:
        request = InferenceRequest(messages=prompt(), max_tokens=TOKENS, sampling=SamplingParams(temperature=0))
        return sum(1 for _ in engine.stream(request))

    start = time.monotonic()
    with ThreadPoolExecutor(concurrent) as pool:
        assert all(pool.map(ask, range(concurrent * PER_WORKER)))
    return time.monotonic() - start


def main() -> None:
    """Measures and prints."""
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        LlamaServer(demo_model(), slots=SLOTS, context_length=256, threads=1) as server,
    ):
        llamatelemetry.init(telemetry_dir=folder)
        with InferenceEngine(LlamaCppBackend(server_url=server.url)) as engine:
            straight(server.url, SLOTS)
            for concurrent in (1, 4, 8):
                direct_s = engine_s = 0.0
                for _ in range(ROUNDS):
                    direct_s += straight(server.url, concurrent)
                    engine_s += engined(engine, concurrent)
                requests_done = concurrent * PER_WORKER * ROUNDS
                rows.append(
                    Row(
                        name=f"{concurrent} concurrent",
                        value=requests_done / engine_s,
                        unit="requests/s",
                        baseline=requests_done / direct_s,
                        budget="ratio >= 0.98",
                    )
                )
        llamatelemetry.shutdown()
    report("Engine against direct HTTP on one llama.cpp server", rows)


if __name__ == "__main__":
    main()
