"""What a decoded token costs against a prompt's on a real llama.cpp, and what is shared by those who decode.

Run: python benchmarks/energy_weights.py [--rounds N] [--json]

Measured is CPU time of the server's process, on one thread of a CPU: where power is steady, energy goes
with it. A GPU is another matter: it computes prompts far faster than it reads a model, so decoding is
dearer there. What this checks is the form of the weights: a step costs something however many decode in
it, and something for each of them. The step's cost is the line through batches of 1, 2 and 4.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading

import psutil
from report import Row, report

from llamatelemetry.llama import LlamaClient, LlamaServer
from llamatelemetry.llama.model_files import demo_model

WORDS = ("apple", "river", "stone", "cloud", "green", "seven", "horse", "paper")
BATCHES = (1, 2, 4)
LONG, ANSWER = 480, 96
DICE = random.Random(1)  # noqa: S311 - repeatable, and nobody's secret


class Measured:
    """A server and the CPU time it takes."""

    def __init__(self, server: LlamaServer, client: LlamaClient) -> None:
        assert server.pid is not None
        self._process = psutil.Process(server.pid)
        self._client = client

    def spent_s(self) -> float:
        """CPU time of the server so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def ask(self, words: int, tokens: int, slot: int) -> int:
        """Has a prompt read that no cache has seen, and so many tokens generated; gives how long the prompt was."""
        prompt = " ".join(DICE.choice(WORDS) for _ in range(words))
        body = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "cache_prompt": False}
        timings = list(self._client.complete(body, id_slot=slot))[-1].timings
        assert timings is not None
        assert timings.prompt_tokens is not None
        return timings.prompt_tokens

    def prefill_token_s(self) -> float:
        """CPU time of one token of a prompt."""
        begun = self.spent_s()
        tokens = self.ask(LONG, 1, 0)
        return (self.spent_s() - begun) / tokens

    def decode_step_s(self, batch: int) -> float:
        """CPU time of one step in which so many decode."""

        def cost(tokens: int) -> float:
            begun = self.spent_s()
            threads = [threading.Thread(target=self.ask, args=(4, tokens, slot)) for slot in range(batch)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return self.spent_s() - begun

        # A short run is taken off: prompts, and the steps in which not all take part yet.
        short = ANSWER // 4
        return (cost(ANSWER) - cost(short)) / (ANSWER - short)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    rounds = parser.parse_args().rounds
    server = LlamaServer(demo_model(), slots=max(BATCHES), context_length=2048, threads=1)
    with server, LlamaClient(server.url) as client:
        measured = Measured(server, client)
        measured.prefill_token_s()
        prefill = [measured.prefill_token_s() for _ in range(rounds)]
        steps = {batch: [measured.decode_step_s(batch) for _ in range(rounds)] for batch in BATCHES}
    token_s = statistics.median(prefill)
    medians = {batch: statistics.median(values) for batch, values in steps.items()}
    slope, intercept = statistics.linear_regression(list(medians), list(medians.values()))
    rows = [Row(name="prompt token", value=token_s * 1e3, unit="ms CPU")]
    rows += [
        Row(name=f"step in which {batch} decode", value=value * 1e3, unit="ms CPU", baseline=token_s * 1e3)
        for batch, value in medians.items()
    ]
    rows += [
        Row(name="step, in prompt tokens", value=intercept / token_s, unit="tokens"),
        Row(name="each token in it, in prompt tokens", value=slope / token_s, unit="tokens"),
    ]
    report("CPU time of llama.cpp, SmolLM2-135M Q4_1, one thread", rows)


if __name__ == "__main__":
    main()
