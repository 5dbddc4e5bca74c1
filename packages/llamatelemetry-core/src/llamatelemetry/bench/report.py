"""What a benchmark says: times, speeds and energy of the requests of a load.

Every figure of a request is the one of its record, taken where its tokens arrived; nothing is told from the
beginning and the end of the whole, but for the throughput.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.bench.intervals import CONFIDENCE, Estimate, mean_of, median_of
from llamatelemetry.bench.load import Load, Sent, send
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.metrics import percentile
from llamatelemetry.inference.result import InferenceResult

__all__ = ["BenchmarkReport", "measure", "report_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """What came of a load. A figure that nobody measured is None.

    Attributes:
        model: Name of the model.
        quantization: How its weights were made smaller.
        provider: What ran it.
        concurrency: Requests in flight at once, at most.
        requests: How many there were.
        input_tokens: Prompt tokens of all.
        cached_tokens: Those of them that came from a cache.
        output_tokens: Generated tokens of all.
        ttft_ms: Time to the first token: its median, in milliseconds.
        ttft_p95_ms: What one in twenty waited longer than.
        tpot_ms: Time for each token after the first: its median, in milliseconds.
        decode_tps: Tokens a second of one request after its first token: the mean.
        prefill_tps: Prompt tokens a second of one request: the mean.
        throughput_tps: Generated tokens a second of all requests together.
        wall_s: Seconds that all of it took.
        energy_j: GPU energy of all requests, in joules.
        energy_per_token_j: The same for each generated token.
    """

    model: str
    quantization: str | None
    provider: str
    concurrency: int
    requests: int
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    ttft_ms: Estimate | None
    ttft_p95_ms: float | None
    tpot_ms: Estimate | None
    decode_tps: Estimate | None
    prefill_tps: Estimate | None
    throughput_tps: float | None
    wall_s: float
    energy_j: float | None
    energy_per_token_j: float | None

    def to_data(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {**asdict(self), "confidence": CONFIDENCE}


def measure(
    engine: InferenceEngine,
    load: Load | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> BenchmarkReport:
    """Sends a load through an engine and says what came of it.

    Args:
        engine: What is measured, open.
        load: What is sent; eight prompts, one after another, where None.
        on_progress: Told after each request how many are done, and of how many.
        clock: What the whole is measured on.

    Raises:
        LlamatelemetryError: A request failed.
    """
    chosen = load or Load()
    return report_of(send(engine, chosen, on_progress=on_progress, clock=clock), engine.info, chosen)


def report_of(sent: Sent, info: ModelInfo, load: Load) -> BenchmarkReport:
    """The figures of what came of a load."""
    results = sent.results
    output, energy = _total(results, lambda each: each.output_tokens), _total(results, lambda each: each.energy_j)
    waited = sorted(each.ttft_ms for each in results if each.ttft_ms is not None)
    return BenchmarkReport(
        model=info.model,
        quantization=info.quantization,
        provider=info.provider,
        concurrency=load.concurrency,
        requests=len(results),
        input_tokens=_whole(_total(results, lambda each: each.input_tokens)),
        cached_tokens=_whole(_total(results, lambda each: each.cached_tokens)),
        output_tokens=_whole(output),
        ttft_ms=median_of([each.ttft_ms for each in results]),
        ttft_p95_ms=percentile(waited, 0.95),
        tpot_ms=median_of([each.tpot_ms for each in results]),
        decode_tps=mean_of([each.tps for each in results]),
        prefill_tps=mean_of([each.prefill_tps for each in results]),
        throughput_tps=output / sent.wall_s if output and sent.wall_s > 0 else None,
        wall_s=sent.wall_s,
        energy_j=energy,
        energy_per_token_j=energy / output if output and energy is not None else None,
    )


def _total(results: tuple[InferenceResult, ...], figure: Callable[[InferenceResult], float | None]) -> float | None:
    """The sum over all results; None where one of them does not know its own."""
    found = [figure(each) for each in results]
    known = [each for each in found if each is not None]
    return sum(known) if len(known) == len(found) else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
