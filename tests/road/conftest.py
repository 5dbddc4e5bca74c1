"""The example of the road, run once as its reader would, on the first two layers of SmolLM2."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import llamatelemetry
from llamatelemetry import InferenceEngine, InferenceRequest, InferenceResult, SamplingParams
from llamatelemetry.deployment import status, stop
from llamatelemetry.testing.collector import OtlpSink, running_rotel, span_from_otlp
from llamatelemetry.testing.emitted import EmittedSpan

# What is trained needs torch and PEFT, which one environment has.
collect_ignore = [] if importlib.util.find_spec("peft") else ["test_road.py"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "road"
QUESTION = "What is the capital of Norwood?"
_LAYERS = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """What came of it.

    Attributes:
        folder: Where it was run; its store is in it.
        record: What the command printed.
        answer: What the deployment answered, asked by a program of its own telemetry.
        spans: All that the collector passed on.
        environment: Of the command.
    """

    folder: Path
    record: Mapping[str, Any]
    answer: InferenceResult
    spans: tuple[EmittedSpan, ...]
    environment: Mapping[str, str]

    def stage(self, stage: str) -> Mapping[str, Any]:
        """What the record says of a stage."""
        return next(each for each in self.record["stages"] if each["id"] == stage)

    def made(self) -> dict[str, Path]:
        """Names of all that was made, to files and folders."""
        stages = self.record["stages"]
        return {f"{each['id']}.{name}": Path(path) for each in stages for name, path in each["paths"].items()}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the command in its folder."""
        return _run(self.folder, self.environment, "-m", "llamatelemetry.cli", *arguments)


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """The example, through a real collector; its server is stopped in the end."""
    folder = tmp_path_factory.mktemp("road") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("SmolLM2*", "artifacts", "__pycache__"))
    home = folder / "home"
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("LLAMATELEMETRY_", "OTEL_"))}
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "COLUMNS": "250"}
    environment = {**clean, **quiet, "LLAMATELEMETRY_HOME": str(home)}
    made = _run(folder, environment, "make_base.py", "SmolLM2-135M-Instruct", _LAYERS)
    assert made.returncode == 0, made.stderr
    with OtlpSink() as sink, running_rotel(pass_on_to=sink.endpoint) as rotel:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = rotel.endpoint
        environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
        try:
            done = _run(folder, environment, "-m", "llamatelemetry.cli", "pipeline", "run", "example.toml", "--json")
            assert done.returncode == 0, done.stderr
            answer = _ask(home, rotel.endpoint)
            asked = bytes.fromhex(answer.trace_id or "")
            assert sink.wait_for(lambda it: any(span.trace_id == asked for span in it.spans), 30)
            yield Road(
                folder=folder,
                record=json.loads(done.stdout),
                answer=answer,
                spans=tuple(span_from_otlp(span) for span in sink.spans),
                environment=environment,
            )
        finally:
            stop("norwood", home=home)


def _ask(home: Path, endpoint: str) -> InferenceResult:
    now = status("norwood", home=home)
    assert now.deployment is not None
    llamatelemetry.init(otlp_endpoint=endpoint, otlp_protocol="http/protobuf", service_name="asks")
    with InferenceEngine("llamacpp", server_url=now.deployment.url) as engine:
        request = InferenceRequest(
            messages=[{"role": "user", "content": QUESTION}], max_tokens=8, sampling=SamplingParams(temperature=0)
        )
        answer = engine.generate(request)
    assert llamatelemetry.shutdown().complete
    return answer


def _run(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=400, check=False
    )
