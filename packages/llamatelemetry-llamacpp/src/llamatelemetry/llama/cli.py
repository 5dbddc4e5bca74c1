"""The verbs ``run`` and ``demo``: one prompt, its answer as it comes, then where the time went."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Group
from rich.text import Text

from llamatelemetry import sdk
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.cli.figures import Figures
from llamatelemetry.cli.output import console, examples, json_option, print_json, progress_console
from llamatelemetry.cli.trace_view import TraceView
from llamatelemetry.config import Settings
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.result import InferenceResult
from llamatelemetry.llama.model_files import demo_model, model_name
from llamatelemetry.otel.capture import SpanCapture
from llamatelemetry.otel.otlp import signal_endpoint
from llamatelemetry.otel.rotation import files_of_process
from llamatelemetry.readers import without_credentials

DEMO_PROMPT: Final = "What is the capital of France? Answer in one short sentence."

_JSON_FIELDS: Final = (
    "text",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "queue_ms",
    "ttft_ms",
    "tpot_ms",
    "tps",
    "trace_id",
)


@click.command(epilog=examples("llamatelemetry demo", "llamatelemetry demo -m model.gguf --json"))
@click.option("-m", "--model", help="A GGUF file; the small model from the package index when not given.")
@click.option("-p", "--prompt", default=DEMO_PROMPT, show_default=True, help="What to ask.")
@click.option("-n", "--max-tokens", type=click.IntRange(min=1), default=48, show_default=True)
@json_option
def demo(model: str | None, prompt: str, max_tokens: int, *, as_json: bool) -> None:
    """Ask a small real model and show the trace.

    Starts llama.cpp in a child process, streams one chat answer, then shows where the time went.
    The telemetry is written to files, or sent to OTEL_EXPORTER_OTLP_ENDPOINT if that is set.
    """
    request = _chat(prompt, None, max_tokens=max_tokens, sampling=SamplingParams(temperature=0.0))
    _answer({"model": model or str(demo_model()), "slots": 1}, request, as_json=as_json)


@click.command(
    epilog=examples(
        'llamatelemetry run -m model.gguf -p "Why is the sky blue?"',
        'llamatelemetry run -m http://127.0.0.1:8080 -p "Why is the sky blue?" --json',
    )
)
@click.option(
    "-m",
    "--model",
    help="A GGUF file, or the URL of a llama-server that runs; the demo model when not given.",
)
@click.option("-p", "--prompt", required=True, help="What to ask; - reads it from standard input.")
@click.option("-s", "--system", help="System message.")
@click.option("-n", "--max-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("-t", "--temperature", type=float, help="Sampling temperature; 0 is greedy.")
@click.option("--seed", type=int, help="Makes sampling repeatable.")
@click.option("-c", "--ctx", type=click.IntRange(min=1), help="Tokens one slot holds.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads to compute with.")
@click.option("--gpu-layers", type=click.IntRange(min=0), help="Layers kept on the GPU.")
@json_option
def run(
    *,
    model: str | None,
    prompt: str,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    ctx: int | None,
    threads: int | None,
    gpu_layers: int | None,
    as_json: bool,
) -> None:
    """Ask a model and show the trace.

    The model is a GGUF file, for which a server is started and stopped again, or a server that runs.
    """
    if prompt == "-":
        prompt = sys.stdin.read()
    if model is not None and model.startswith(("http://", "https://")):
        decided = {"--ctx": ctx, "--threads": threads, "--gpu-layers": gpu_layers}
        given = [name for name, value in decided.items() if value is not None]
        if given:
            raise click.UsageError(f"{', '.join(given)}: a server that already runs has decided that itself.")
        options: dict[str, Any] = {"server_url": model}
    else:
        options = {
            "model": model or str(demo_model()),
            "slots": 1,
            "context_length": ctx,
            "threads": threads,
            "gpu_layers": gpu_layers,
        }
    request = _chat(prompt, system, max_tokens=max_tokens, sampling=SamplingParams(temperature=temperature), seed=seed)
    _answer(options, request, as_json=as_json)


def _chat(
    prompt: str, system: str | None, *, max_tokens: int, sampling: SamplingParams, seed: int | None = None
) -> InferenceRequest:
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    return InferenceRequest(messages=messages, max_tokens=max_tokens, sampling=sampling, seed=seed)


def _answer(options: dict[str, Any], request: InferenceRequest, *, as_json: bool) -> None:
    capture = SpanCapture()
    settings = sdk.init(span_processors=[capture])
    try:
        with _opened(options) as engine:
            result = _stream(engine, request, quiet=as_json)
        sdk.flush()
        if as_json:
            figures = {name: getattr(result, name) for name in _JSON_FIELDS}
            folder = settings.telemetry_dir if "file" in settings.traces_exporters else None
            print_json({**figures, "telemetry_dir": None if folder is None else str(folder)})
        else:
            _show(result, capture, settings)
    finally:
        sdk.shutdown()


@contextmanager
def _opened(options: dict[str, Any]) -> Iterator[InferenceEngine]:
    where = options.get("server_url") or model_name(options["model"])
    with progress_console().status(f"Opening {where} …") as status:

        def on_progress(elapsed_s: float, _line: str) -> None:
            status.update(f"Starting llama.cpp with {where} … {elapsed_s:.1f} s")

        engine = InferenceEngine("llamacpp", **options, on_progress=on_progress)
    with engine:
        yield engine


def _stream(engine: InferenceEngine, request: InferenceRequest, *, quiet: bool) -> InferenceResult:
    with engine.stream(request) as stream:
        if not quiet:
            with progress_console().status("Reading the prompt …"):
                delta = next(stream, None)
            while delta is not None:
                click.echo(delta.text, nl=False)
                delta = next(stream, None)
            click.echo()
        return stream.result()


def _show(result: InferenceResult, capture: SpanCapture, settings: Settings) -> None:
    out = console()
    spans = capture.trace(result.trace_id) if result.trace_id else []
    out.print(Group(Text(), TraceView(spans), Text(), Figures(result), Text(f"trace {result.trace_id}", "dim"), Text()))
    if "otlp" in settings.traces_exporters:
        out.print(f"Telemetry was sent to {without_credentials(signal_endpoint(settings, 'traces'))}")
    if "file" in settings.traces_exporters:
        out.print("Telemetry is in")
        for path in files_of_process(settings.telemetry_dir, os.getpid()):
            out.print(f"  {_shown(path)}")
        out.print(f"Send it on:  llamatelemetry replay {_shown(settings.telemetry_dir)} --to http://127.0.0.1:4318")


def _shown(path: Path) -> str:
    """The path as a person in this folder would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
