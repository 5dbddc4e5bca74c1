"""``opentelemetry-instrument`` as its users run it: the real command, in processes and environments of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from llamatelemetry.llama.server import LlamaServer
from llamatelemetry.testing.collector import OtlpSink, broken_endpoint, plain, span_from_otlp
from llamatelemetry.testing.emitted import EmittedSpan, metrics_from_otlp_json, spans_from_otlp_json
from llamatelemetry.testing.nvml_stub import TESLA_T4_X2, NvmlStub
from llamatelemetry.testing.semconv import assert_valid_metrics, assert_valid_spans

PROFILES = ("gen_ai", "llm")
OURS = {"OTEL_PYTHON_DISTRO": "llamatelemetry"}
DELTA = 1
"""AGGREGATION_TEMPORALITY_DELTA of OTLP."""
THEIRS = {"OTEL_PYTHON_DISTRO": "distro", "OTEL_PYTHON_CONFIGURATOR": "configurator"}
USUALLY_HIDDEN = ("opentelemetry-distro", "opentelemetry-instrumentation-genai-openai")
"""The second distribution of the tests' own environment, and an instrumentor that takes a second to import."""

LIBRARY = '''
class Model:
    """What an application uses: it answers with its prompt, word for word."""

    def generate(self, prompt, max_tokens=3):
        return " ".join(prompt.split()[:max_tokens])
'''
INSTRUMENTOR = """
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from llamatelemetry.backends.protocol import ModelInfo, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.observation import Observation
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.otel.recorder import inside_inference

MODEL = ModelInfo(model="toy", provider="toy", in_process=True)


class ToyInstrumentor(BaseInstrumentor):
    def instrumentation_dependencies(self):
        return ("toy",)

    def _instrument(self, **kwargs):
        import toy

        sink = InstrumentationSink(kwargs.get("tracer_provider"), kwargs.get("meter_provider"))
        self._original = original = toy.Model.generate

        def generate(model, prompt, max_tokens=3):
            if inside_inference():
                return original(model, prompt, max_tokens)
            seen = Observation(InferenceRequest(prompt=prompt, max_tokens=max_tokens), MODEL, sink)
            with seen.active():
                seen.expects(len(prompt.split()))
                seen.started()
                answer = original(model, prompt, max_tokens)
                words = answer.split()
                for _ in words:
                    seen.token()
            usage = Usage(input_tokens=len(prompt.split()), output_tokens=len(words))
            seen.finish(StreamEnd(finish_reason="length", usage=usage), text=answer)
            return answer

        toy.Model.generate = generate

    def _uninstrument(self, **kwargs):
        import toy

        toy.Model.generate = self._original
"""
BROKEN = """
class BrokenInstrumentor:
    def instrument(self, **kwargs):
        raise RuntimeError("no such function to wrap")
"""
APPLICATION = """
from toy import Model

print(Model().generate("the sea is blue and wide"))
"""
ANSWER = "the sea is\n"


class Environment:
    """This Python environment once more, made of links: less some distributions, and with others that are planted.

    Which distributions there are decides what ``opentelemetry-instrument`` does, so tests choose them.
    """

    def __init__(self, folder: Path, *, without: Iterable[str] = USUALLY_HIDDEN) -> None:
        self.work = folder / "work"
        self.planted = folder / "planted"
        self.python = folder / "environment" / "bin" / "python"
        for path in (self.work, self.planted, self.python.parent):
            path.mkdir(parents=True)
        self.python.symlink_to(Path(sys.executable).resolve())
        (folder / "environment" / "pyvenv.cfg").write_text(Path(sys.prefix, "pyvenv.cfg").read_text())
        here = Path(sysconfig.get_path("purelib"))
        there = folder / "environment" / here.relative_to(sys.prefix)
        there.mkdir(parents=True)
        hidden = {f"{name.replace('-', '_')}-" for name in without}
        for path in here.iterdir():
            if not (path.suffix == ".dist-info" and path.name.startswith(tuple(hidden))):
                (there / path.name).symlink_to(path)

    def plant(self, name: str, module: str, *, instruments: str = "", entry_points: str = "") -> None:
        """Installs a distribution of one module; it may say what it instruments."""
        (self.planted / f"{name}.py").write_text(module)
        info = self.planted / f"{name}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        if instruments:
            metadata += f'Provides-Extra: instruments\nRequires-Dist: {instruments}; extra == "instruments"\n'
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(entry_points)

    def put_first(self, name: str) -> None:
        """Has a distribution found before all others."""
        (info,) = Path(sysconfig.get_path("purelib")).glob(f"{name.replace('-', '_')}-*.dist-info")
        (self.planted / info.name).symlink_to(info)

    def python_run(self, source: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a script as it is."""
        return self._run([], source, env)

    def instrument(
        self, source: str, env: Mapping[str, str] | None = None, arguments: Iterable[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script under ``opentelemetry-instrument``."""
        command = [str(Path(sys.prefix, "bin", "opentelemetry-instrument")), str(self.python)]
        return self._run(command, source, env, arguments)

    def spans(self) -> tuple[EmittedSpan, ...]:
        """Every span in the files where a process without any settings puts them."""
        return spans_from_otlp_json(self.lines("traces"))

    def lines(self, signal: str) -> list[str]:
        """The lines of these files."""
        files = sorted((self.work / "llamatelemetry-data").glob(f"{signal}-*.jsonl"))
        return [line for path in files for line in path.read_text().splitlines()]

    def _run(
        self, command: list[str], source: str, env: Mapping[str, str] | None, arguments: Iterable[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        (self.work / "app.py").write_text(dedent(source))
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("LLAMATELEMETRY_", "OTEL_"))}
        return subprocess.run(
            [self.python, *command, "app.py", *arguments],
            cwd=self.work,
            env={**clean, "PYTHONPATH": str(self.planted), **(env or {})},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment where llamatelemetry is the only distribution, with a library and its instrumentor."""
    return with_library(Environment(tmp_path))


def with_library(environment: Environment) -> Environment:
    environment.plant("toy", LIBRARY)
    entry_point = "[opentelemetry_instrumentor]\ntoy = toy_instrumentor:ToyInstrumentor\n"
    environment.plant("toy_instrumentor", INSTRUMENTOR, instruments="toy", entry_points=entry_point)
    return environment


def to(sink: OtlpSink) -> dict[str, str]:
    """Environment of a process that exports there."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


def resource_of(sink: OtlpSink) -> dict[str, Any]:
    """Attributes of the one resource that everything received came from."""
    groups = [group for request in sink.requests for _, groups in request.ListFields() for group in groups]
    (resource,) = {json.dumps(plain(group.resource.attributes), sort_keys=True) for group in groups}
    return dict(json.loads(resource))


def inferences(spans: Iterable[EmittedSpan]) -> list[str]:
    """Names of the inference spans."""
    return [span.name for span in spans if "gen_ai.operation.name" in span.attributes]


def received(sink: OtlpSink) -> list[EmittedSpan]:
    """The spans that arrived, once they are known to be good."""
    spans = [span_from_otlp(span) for span in sink.spans]
    assert_valid_spans(spans, PROFILES)
    return spans


def test_an_application_that_knows_nothing_of_us_is_traced_into_files(environment: Environment) -> None:
    plainly = environment.python_run(APPLICATION)
    assert plainly.stdout == ANSWER
    assert not (environment.work / "llamatelemetry-data").exists()
    traced = environment.instrument(APPLICATION)
    assert (traced.returncode, traced.stdout, traced.stderr) == (0, ANSWER, "")
    spans = environment.spans()
    assert sorted(span.name for span in spans) == ["decode", "prefill", "text_completion toy"]
    assert_valid_spans(spans, PROFILES)
    (span,) = (span for span in spans if span.parent_id is None)
    assert span.kind == "INTERNAL"
    expected = {
        "gen_ai.provider.name": "toy",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.usage.input_tokens": 6,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("length",),
        "llm.tokens.total": 9,
    }
    assert {name: span.attributes.get(name) for name in expected} == expected
    metrics = metrics_from_otlp_json(environment.lines("metrics"))
    assert_valid_metrics(metrics)
    assert "gen_ai.client.operation.duration" in {metric.name for metric in metrics}
    assert environment.lines("logs") == []


def test_standard_variables_mean_what_they_mean_everywhere(environment: Environment) -> None:
    with OtlpSink() as sink:
        done = environment.instrument(
            APPLICATION,
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
                "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
                "OTEL_SERVICE_NAME": "sea",
                "OTEL_RESOURCE_ATTRIBUTES": "team=blue,service.name=other",
                "OTEL_TRACES_SAMPLER": "traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0",
                "OTEL_BSP_SCHEDULE_DELAY": "100",
            },
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
        assert sink.spans == []
        assert "gen_ai.client.operation.duration" in {metric.name for metric in sink.metrics}
        resource = resource_of(sink)
        assert resource["service.name"] == "sea"
        assert resource["team"] == "blue"
        assert resource["telemetry.distro.name"] == "llamatelemetry"
        assert resource["telemetry.auto.version"]
        assert all(headers["api-key"] == "a b" for headers in sink.headers)
        assert all(headers["content-encoding"] == "gzip" for headers in sink.headers)
    assert not (environment.work / "llamatelemetry-data").exists()


def test_what_opentelemetry_reads_itself_means_the_same_under_ours(environment: Environment) -> None:
    with OtlpSink() as sink:
        variables = {
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process,os",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
        }
        done = environment.instrument(APPLICATION, to(sink) | variables)
        assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
        resource = resource_of(sink)
        assert resource["process.runtime.name"] == "cpython"
        assert resource["os.type"] == "linux"
        assert resource["telemetry.distro.name"] == "llamatelemetry"
        (durations,) = (metric for metric in sink.metrics if metric.name == "gen_ai.client.operation.duration")
        assert durations.histogram.aggregation_temporality == DELTA


PLUGIN = """
from llamatelemetry.plugins import hookimpl

@hookimpl
def detect_resource(settings):
    return {"plugin.seen": True}

@hookimpl
def register_enrichers(registry):
    registry.add("mark", "noticing:Mark")

class Mark:
    def on_start(self, opening):
        pass

    def on_finish(self, record):
        return {"noticed": "yes"}
"""


def test_gpus_and_plugins_take_part_stub(environment: Environment, tmp_path: Path) -> None:
    environment.plant("noticing", PLUGIN, entry_points="[llamatelemetry]\nnoticing = noticing\n")
    slow = APPLICATION + "\nimport time; time.sleep(0.5)\n"
    with OtlpSink() as sink:
        stub = NvmlStub(TESLA_T4_X2, tmp_path)
        done = environment.instrument(slow, to(sink) | dict(stub.environ))
        assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
        (span,) = (span for span in received(sink) if span.parent_id is None)
        assert span.attributes["noticed"] == "yes"
        assert len(span.attributes["llamatelemetry.gpu.ids"]) == 2
        assert {"hw.power", "hw.gpu.memory.usage"} <= {metric.name for metric in sink.metrics}
        assert resource_of(sink)["plugin.seen"] is True


def test_init_in_the_application_warns_once_and_starts_nothing(environment: Environment) -> None:
    with OtlpSink() as sink:
        done = environment.instrument(
            f"""
            import threading
            before = threading.active_count()
            import llamatelemetry
            settings = llamatelemetry.init("mine", telemetry_dir="elsewhere")
            assert threading.active_count() == before
            assert settings.otlp_endpoint == {sink.endpoint!r}
            {APPLICATION.strip().splitlines()[0]}
            print(Model().generate("the sea is blue"))
            """,
            to(sink),
        )
        assert (done.returncode, done.stdout) == (0, ANSWER)
        assert done.stderr.splitlines() == [
            "init() was called before: nothing changes; call shutdown() first to start anew"
        ]
        assert inferences(received(sink)) == ["text_completion toy"]
    assert not (environment.work / "elsewhere").exists()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LLAMATELEMETRY_SEMCONV": "x"}, "LLAMATELEMETRY_SEMCONV='x' is not valid: choose one of gen_ai"),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER='jaeger_remote' is not valid: choose one of"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER='zipkin' is not valid: choose one of otlp, file"),
        ({"LLAMATELEMETRY_DIR": "/dev/null/data"}, "telemetry_dir='/dev/null/data' is not valid: give a folder"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
            },
            'InvalidCompressionValueException: Invalid value "zip" for compression envvar',
        ),
    ],
)
def test_an_error_in_the_environment_is_one_line_and_the_application_runs(
    environment: Environment, variables: dict[str, str], said: str
) -> None:
    done = environment.instrument(
        APPLICATION
        + "\nimport threading; assert threading.active_count() == 1; assert Model.generate.__module__ == 'toy'",
        variables,
    )
    assert (done.returncode, done.stdout) == (0, ANSWER)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"llamatelemetry does not start: {said}")


def test_what_is_not_read_is_said_with_what_to_do_instead(environment: Environment) -> None:
    done = environment.instrument(
        APPLICATION,
        {
            "OTEL_PYTHON_ID_GENERATOR": "xray",
            "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true",
            "OTEL_METRIC_EXPORT_TIMEOUT": "5000",
        },
    )
    assert (done.returncode, done.stdout) == (0, ANSWER)
    said = dict(line.removeprefix("llamatelemetry does not read ").split(": ", 1) for line in done.stderr.splitlines())
    assert set(said) == {
        "OTEL_PYTHON_ID_GENERATOR",
        "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED",
        "OTEL_METRIC_EXPORT_TIMEOUT",
    }
    # That package does nothing as long as the variable says that the SDK does it.
    assert "leave it out" in said["OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED"]
    assert inferences(environment.spans()) == ["text_completion toy"]


def test_a_provider_that_only_a_variable_names_does_not_swallow_everything(environment: Environment) -> None:
    done = environment.instrument(
        APPLICATION,
        {"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider", "OTEL_PYTHON_METER_PROVIDER": "no such provider"},
    )
    assert (done.returncode, done.stdout) == (0, ANSWER)
    assert done.stderr.splitlines() == [
        "llamatelemetry does not read OTEL_PYTHON_METER_PROVIDER: leave it out, the provider is ours",
        "llamatelemetry does not read OTEL_PYTHON_TRACER_PROVIDER: leave it out, the provider is ours",
    ]
    assert inferences(environment.spans()) == ["text_completion toy"]
    assert environment.lines("metrics")


def test_one_instrumentation_can_be_disabled(environment: Environment) -> None:
    done = environment.instrument(
        APPLICATION + "\nfrom opentelemetry import trace\ntrace.get_tracer('app').start_span('its own').end()\n",
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "flask, toy"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
    assert [span.name for span in environment.spans()] == ["its own"]


def test_a_disabled_sdk_leaves_nothing_behind(environment: Environment) -> None:
    done = environment.instrument(
        APPLICATION + "\nimport threading; assert threading.active_count() <= 2, threading.enumerate()\n",
        {"OTEL_SDK_DISABLED": "true"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
    assert [path.name for path in environment.work.iterdir()] == ["app.py"]


def test_an_instrumentor_that_fails_stops_no_other(environment: Environment) -> None:
    for name in ("aaa_broken", "zzz_broken"):
        entry_point = f"[opentelemetry_instrumentor]\n{name} = {name}:BrokenInstrumentor\n"
        environment.plant(name, BROKEN, entry_points=entry_point)
    done = environment.instrument(APPLICATION)
    assert (done.returncode, done.stdout) == (0, ANSWER)
    assert "aaa_broken is not instrumented" in done.stderr
    assert "zzz_broken is not instrumented" in done.stderr
    assert inferences(environment.spans()) == ["text_completion toy"]


@pytest.mark.parametrize("first", ["llamatelemetry-core", "opentelemetry-distro"])
def test_of_two_distributions_the_one_found_first_wins_and_either_works(tmp_path: Path, first: str) -> None:
    environment = with_library(Environment(tmp_path, without=USUALLY_HIDDEN[1:]))
    environment.put_first(first)
    with OtlpSink() as sink:
        done = environment.instrument(APPLICATION, to(sink))
        assert (done.returncode, done.stdout) == (0, ANSWER)
        assert inferences(received(sink)) == ["text_completion toy"]
        assert (resource_of(sink).get("telemetry.distro.name") == "llamatelemetry") == (first == "llamatelemetry-core")


def test_to_name_our_distro_is_enough(tmp_path: Path) -> None:
    environment = with_library(Environment(tmp_path, without=USUALLY_HIDDEN[1:]))
    environment.put_first("opentelemetry-distro")
    done = environment.instrument(APPLICATION, OURS)
    assert (done.returncode, done.stdout) == (0, ANSWER)
    assert "Traceback" not in done.stderr
    assert inferences(environment.spans()) == ["text_completion toy"]


def test_our_instrumentors_work_under_opentelemetrys_own_distro(tmp_path: Path) -> None:
    environment = with_library(Environment(tmp_path, without=USUALLY_HIDDEN[1:]))
    with OtlpSink() as sink:
        done = environment.instrument(APPLICATION, THEIRS | to(sink))
        assert (done.returncode, done.stdout) == (0, ANSWER)
        assert "Traceback" not in done.stderr
        # The application's last line was the inference: what it left is flushed while the process ends.
        assert sorted(span.name for span in received(sink)) == ["decode", "prefill", "text_completion toy"]
        assert "gen_ai.client.operation.duration" in {metric.name for metric in sink.metrics}
        assert "telemetry.distro.name" not in resource_of(sink)
    assert not (environment.work / "llamatelemetry-data").exists()


def test_variables_that_mean_something_to_that_distro_alone_keep_nobody_from_observing(tmp_path: Path) -> None:
    environment = with_library(Environment(tmp_path, without=USUALLY_HIDDEN[1:]))
    with OtlpSink() as sink:
        variables = {"OTEL_TRACES_EXPORTER": "otlp_proto_http", "OTEL_BSP_MAX_QUEUE_SIZE": "5000000"}
        done = environment.instrument(APPLICATION, THEIRS | to(sink) | variables)
        assert (done.returncode, done.stdout) == (0, ANSWER)
        assert [line for line in done.stderr.splitlines() if "not loaded" not in line] == []
        assert inferences(received(sink)) == ["text_completion toy"]


def test_under_that_distro_too_an_error_in_the_environment_is_one_line(tmp_path: Path) -> None:
    environment = with_library(Environment(tmp_path, without=USUALLY_HIDDEN[1:]))
    with OtlpSink() as sink:
        variables = THEIRS | to(sink) | {"LLAMATELEMETRY_SEMCONV": "x"}
        done = environment.instrument(
            APPLICATION + "\nfrom opentelemetry import trace; trace.get_tracer('a').start_span('its own').end()",
            variables,
        )
        assert (done.returncode, done.stdout) == (0, ANSWER)
        assert [span.name for span in sink.spans] == ["its own"]
    (line,) = (line for line in done.stderr.splitlines() if "not loaded" not in line)
    assert line.startswith("llamatelemetry does not observe inferences: LLAMATELEMETRY_SEMCONV='x' is not valid")


@pytest.mark.parametrize("fault", ["refuses", "accepts nothing", "answers nothing"])
def test_a_collector_that_is_dead_holds_nobody_up(environment: Environment, fault: Any) -> None:
    with broken_endpoint(fault) as endpoint:
        done = environment.instrument(
            APPLICATION + "\nimport time; print(time.time())\n", {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        )
        ended = time.time()
    answer, finished = done.stdout.splitlines()
    assert (done.returncode, answer) == (0, ANSWER.strip())
    assert ended - float(finished) < 2.0 + 3.0, "two seconds, and what ending an interpreter takes on a busy machine"
    assert "telemetry was lost: 3 of 3 spans to OTLP" in done.stderr
    assert "Traceback" not in done.stderr


DECLARED = """
file_format: "1.0"
resource:
  attributes:
    - {{name: service.name, value: declared}}
tracer_provider:
  processors:
    - batch: {{exporter: {{otlp_http: {{endpoint: "{endpoint}/v1/traces"}}}}}}
"""
METRICS_DECLARED = """
meter_provider:
  readers:
    - periodic: {{exporter: {{otlp_http: {{endpoint: "{endpoint}/v1/metrics"}}}}}}
"""


def test_a_file_of_declarative_configuration_decides_where_everything_goes_stub(
    environment: Environment, tmp_path: Path
) -> None:
    with OtlpSink() as sink:
        (environment.work / "otel.yaml").write_text((DECLARED + METRICS_DECLARED).format(endpoint=sink.endpoint))
        stub = NvmlStub(TESLA_T4_X2, tmp_path)
        done = environment.instrument(
            APPLICATION + "\nimport time; time.sleep(0.5)\n", {"OTEL_CONFIG_FILE": "otel.yaml", **stub.environ}
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
        spans = received(sink)
        assert inferences(spans) == ["text_completion toy"]
        assert len(next(span for span in spans if span.parent_id is None).attributes["llamatelemetry.gpu.ids"]) == 2
        assert {"gen_ai.client.operation.duration", "hw.power"} <= {metric.name for metric in sink.metrics}
        assert resource_of(sink)["service.name"] == "declared"
    assert not (environment.work / "llamatelemetry-data").exists()


def test_beside_that_file_no_variable_that_chooses_exporters_or_a_sampler_is_looked_at(
    environment: Environment,
) -> None:
    with OtlpSink() as sink:
        (environment.work / "otel.yaml").write_text(DECLARED.format(endpoint=sink.endpoint))
        ignored = {
            "OTEL_TRACES_EXPORTER": "zipkin",
            "OTEL_METRICS_EXPORTER": "none,otlp",
            "OTEL_TRACES_SAMPLER": "jaeger_remote",
            "OTEL_TRACES_SAMPLER_ARG": "endpoint=http://there",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        }
        done = environment.instrument(APPLICATION, {"OTEL_CONFIG_FILE": "otel.yaml", **ignored})
        assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
        assert inferences(received(sink)) == ["text_completion toy"]


WORKERS = """
import multiprocessing, warnings
from concurrent.futures import ProcessPoolExecutor
warnings.simplefilter("ignore", DeprecationWarning)  # From Python 3.12 on, forking beside threads warns.
from toy import Model

def work(prompt):
    return Model().generate(prompt)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    process = context.Process(target=work, args=("the sky",))
    process.start()
    process.join()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        print(pool.submit(work, "the sea is blue").result())
"""


def test_with_that_file_too_a_worker_sends_what_it_has_when_it_ends(environment: Environment) -> None:
    with OtlpSink() as sink:
        (environment.work / "otel.yaml").write_text((DECLARED + METRICS_DECLARED).format(endpoint=sink.endpoint))
        done = environment.instrument(WORKERS, {"OTEL_CONFIG_FILE": "otel.yaml"})
        assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
        assert inferences(received(sink)) == ["text_completion toy"] * 2
        assert "gen_ai.client.operation.duration" in {metric.name for metric in sink.metrics}


def test_with_that_file_too_a_wrong_variable_of_ours_leaves_the_application_as_it_is_alone(
    environment: Environment,
) -> None:
    (environment.work / "otel.yaml").write_text(DECLARED.format(endpoint="http://127.0.0.1:1"))
    alone = APPLICATION + "\nimport threading; assert threading.active_count() == 1, threading.enumerate()\n"
    variables = {"OTEL_CONFIG_FILE": "otel.yaml"}
    done = environment.instrument(alone, {**variables, "LLAMATELEMETRY_SEMCONV": "x"})
    assert (done.returncode, done.stdout) == (0, ANSWER), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("llamatelemetry does not start: LLAMATELEMETRY_SEMCONV='x' is not valid")
    done = environment.instrument(alone, {**variables, "OTEL_SDK_DISABLED": "true"})
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")


def test_what_that_file_leaves_out_is_off(environment: Environment) -> None:
    with OtlpSink() as sink:
        (environment.work / "otel.yaml").write_text(DECLARED.format(endpoint=sink.endpoint))
        done = environment.instrument(APPLICATION, {"OTEL_CONFIG_FILE": "otel.yaml", "OTEL_METRICS_EXPORTER": "file"})
        assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")
        assert inferences(received(sink)) == ["text_completion toy"]
    assert not (environment.work / "llamatelemetry-data").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "Configuration file not found: otel.yaml"),
        ('file_format: "1.0"\ntracer_provider: 7\n', "Configuration does not match schema"),
    ],
)
def test_a_configuration_file_that_is_no_good_is_said_and_the_application_runs(
    environment: Environment, content: str | None, said: str
) -> None:
    if content is not None:
        (environment.work / "otel.yaml").write_text(content)
    done = environment.instrument(APPLICATION, {"OTEL_CONFIG_FILE": "otel.yaml"})
    assert (done.returncode, done.stdout) == (0, ANSWER)
    ours = [line for line in done.stderr.splitlines() if line.startswith("llamatelemetry")]
    assert len(ours) == 1
    assert ours[0].startswith(f"llamatelemetry does not start: ConfigurationError: {said}")
    assert "Traceback" not in done.stderr


def test_a_configuration_file_may_say_that_all_is_off(environment: Environment) -> None:
    (environment.work / "otel.yaml").write_text('file_format: "1.0"\ndisabled: true\n')
    done = environment.instrument(APPLICATION, {"OTEL_CONFIG_FILE": "otel.yaml"})
    assert (done.returncode, done.stdout) == (0, ANSWER)
    assert done.stderr.splitlines() == ["Declarative configuration has disabled=true; skipping SDK setup."]
    assert not (environment.work / "llamatelemetry-data").exists()


def test_without_the_package_that_reads_that_file_the_command_that_installs_it_is_named(
    environment: Environment,
) -> None:
    site = next((environment.python.parent.parent / "lib").glob("python*")) / "site-packages"
    (site / "hide.pth").write_text("import sys; sys.modules['opentelemetry.configuration'] = None\n")
    done = environment.instrument(APPLICATION, {"OTEL_CONFIG_FILE": "otel.yaml"})
    assert (done.returncode, done.stdout) == (0, ANSWER)
    (line,) = done.stderr.splitlines()
    assert line.startswith("llamatelemetry does not start: OTEL_CONFIG_FILE needs opentelemetry-configuration")
    assert line.endswith("Run: pip install opentelemetry-configuration")


NESTED = {
    "the library inside our engine": """
        from toy import Model
        from llamatelemetry import InferenceEngine, InferenceRequest
        from llamatelemetry.backends.echo import EchoBackend

        class OverTheLibrary(EchoBackend):
            def stream(self, request, placement):
                Model().generate("the sea is blue")
                yield from super().stream(request, placement)

        with InferenceEngine(OverTheLibrary()) as engine:
            engine.generate(InferenceRequest(prompt="one two", max_tokens=2))
        """,
    "the library inside an inference of util-genai": """
        from toy import Model
        from opentelemetry.util.genai.handler import TelemetryHandler

        with TelemetryHandler().inference("toy", request_model="outer"):
            Model().generate("the sea is blue")
        """,
    "our engine inside an inference of util-genai": """
        from llamatelemetry import InferenceEngine, InferenceRequest
        from opentelemetry.util.genai.handler import TelemetryHandler

        with TelemetryHandler().inference("toy", request_model="outer"), InferenceEngine("echo") as engine:
            engine.generate(InferenceRequest(prompt="one two", max_tokens=2))
        """,
}


@pytest.mark.parametrize(
    ("application", "name"),
    [
        (NESTED["the library inside our engine"], "text_completion echo"),
        (NESTED["the library inside an inference of util-genai"], "chat outer"),
        (NESTED["our engine inside an inference of util-genai"], "chat outer"),
    ],
    ids=NESTED,
)
def test_one_inference_is_one_span_however_many_could_make_it(
    environment: Environment, application: str, name: str
) -> None:
    done = environment.instrument(application)
    assert (done.returncode, done.stderr) == (0, "")
    assert inferences(environment.spans()) == [name]


CLIENT = """
import sys
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")

def ask(stream):
    answer = client.chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "Hi"}], max_tokens=4, temperature=0, stream=stream
    )
    return [chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices] if stream else answer
"""
CLIENT_ALONE = (
    CLIENT
    + """
ask(False)
"""
)
CLIENT_IN_ENGINE = (
    CLIENT
    + """
from llamatelemetry import InferenceEngine, InferenceRequest
from llamatelemetry.backends.echo import EchoBackend

class OverAClient(EchoBackend):
    def stream(self, request, placement):
        ask(False)
        assert "".join(ask(True))
        yield from super().stream(request, placement)

with InferenceEngine(OverAClient()) as engine:
    engine.generate(InferenceRequest(prompt="one two", max_tokens=2))
"""
)
ENGINE_IN_SPAN = (
    CLIENT
    + """
from llamatelemetry import InferenceEngine, InferenceRequest
from opentelemetry.util.genai.handler import TelemetryHandler

outer = TelemetryHandler().inference("a", request_model="b")
with outer, InferenceEngine("llamacpp", server_url=sys.argv[1]) as engine:
    assert engine.generate(InferenceRequest(prompt="one two", max_tokens=2)).output_tokens == 2
"""
)


@pytest.mark.parametrize(
    ("application", "name", "provider"),
    [
        (CLIENT_ALONE, "chat smol", "openai"),
        (CLIENT_IN_ENGINE, "text_completion echo", "echo"),
        (ENGINE_IN_SPAN, "chat b", "a"),
    ],
    ids=["an OpenAI client", "an OpenAI client inside our engine", "our engine inside a span of util-genai"],
)
def test_a_request_to_a_server_of_ours_is_one_span(
    tmp_path: Path, server: LlamaServer, application: str, name: str, provider: str
) -> None:
    environment = Environment(tmp_path, without=["opentelemetry-distro"])
    done = environment.instrument(application, arguments=[server.url])
    assert (done.returncode, done.stderr) == (0, "")
    spans = environment.spans()
    assert inferences(spans) == [name]
    (span,) = (span for span in spans if span.name == name)
    assert span.attributes["gen_ai.provider.name"] == provider


def test_nothing_is_imported_that_the_application_does_not_import(environment: Environment) -> None:
    done = environment.instrument("import sys\nprint(*sorted(sys.modules))\n")
    assert done.stderr == ""
    runtimes = {"accelerate", "gguf", "llama_cpp", "numpy", "openai", "torch", "transformers", "xllamacpp"}
    assert runtimes & set(done.stdout.split()) == set()
