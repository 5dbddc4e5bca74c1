from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llamatelemetry.config import Settings
from llamatelemetry.errors import ConfigurationError
from llamatelemetry.otel import batch
from llamatelemetry.otel.exporters import Exporters
from llamatelemetry.otel.processors import CourierMetricReader


def test_none_makes_nothing() -> None:
    nothing = Exporters(Settings(traces_exporters=("none",), metrics_exporters=("none",), logs_exporters=("none",)))
    made = [nothing.span_processors, nothing.log_processors, nothing.metric_readers, nothing.couriers]
    assert made == [[], [], [], []]
    assert nothing.prometheus is None


def test_each_signal_can_go_to_several_places(tmp_path: Path) -> None:
    made = Exporters(
        Settings(
            otlp_endpoint="http://127.0.0.1:1",
            telemetry_dir=tmp_path,
            traces_exporters=("otlp", "file", "console"),
            metrics_exporters=("otlp", "file", "console", "prometheus"),
            logs_exporters=("otlp", "file", "console"),
            prometheus_port=0,
        )
    )
    try:
        places = sorted((courier.delivery().signal, courier.delivery().exporter) for courier in made.couriers)
        assert places == [
            (signal, place)
            for signal in ("logs", "metrics", "traces")
            for place in (f"OTLP http://127.0.0.1:1/v1/{signal}", "console", f"files in {tmp_path}")
        ]
        assert made.prometheus is not None
        assert len(made.metric_readers) == 4
        assert sum(isinstance(reader, CourierMetricReader) for reader in made.metric_readers) == 3
    finally:
        made.discard()


def test_queues_batches_and_delays_are_as_the_settings_say(tmp_path: Path) -> None:
    chosen = Exporters(
        Settings(
            telemetry_dir=tmp_path,
            metrics_exporters=("none",),
            span_queue_size=3,
            span_batch_size=2,
            span_delay_s=60.0,
            log_queue_size=5,
            log_batch_size=5,
            log_delay_s=0.5,
        )
    )
    by_signal = {courier.delivery().signal: courier for courier in chosen.couriers}
    seen = {signal: (c._queue_size, c._batch_size, c._delay_s) for signal, c in by_signal.items()}
    assert seen == {"traces": (3, 2, 60.0), "logs": (5, 5, 0.5)}
    chosen.discard()


def test_a_setting_that_nobody_chose_is_the_queues_own() -> None:
    usual = Settings()
    assert (usual.span_queue_size, usual.span_batch_size) == (batch.QUEUE_SIZE, batch.BATCH_SIZE)
    assert (usual.log_queue_size, usual.log_batch_size) == (batch.QUEUE_SIZE, batch.BATCH_SIZE)


def test_what_was_made_before_something_failed_is_unmade(tmp_path: Path) -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(
            telemetry_dir=tmp_path, metrics_exporters=("file", "console", "prometheus"), prometheus_port=port
        )
        with pytest.raises(ConfigurationError, match="prometheus_port"):
            Exporters(settings)
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_without_the_extra_grpc_the_command_that_installs_it_is_named() -> None:
    said = run("""
import sys
sys.modules["grpc"] = None
from llamatelemetry.config import Settings
from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.otel.exporters import Exporters
nothing = {"traces_exporters": ("none",), "metrics_exporters": ("none",), "logs_exporters": ("none",)}
for signal in nothing:
    exporters = {**nothing, signal: ("otlp",)}
    try:
        Exporters(Settings(otlp_endpoint="http://127.0.0.1:1", otlp_protocol="grpc", **exporters))
    except MissingDependencyError as error:
        print(error.command)
""")
    assert said.splitlines() == ["pip install 'llamatelemetry-core[grpc]'"] * 3


def test_exporters_that_are_not_asked_for_are_not_imported(tmp_path: Path) -> None:
    said = run(f"""
import sys
from pathlib import Path
from llamatelemetry.config import Settings
from llamatelemetry.otel.exporters import Exporters
Exporters(Settings(telemetry_dir=Path({str(tmp_path)!r}))).discard()
print([name for name in ("grpc", "prometheus_client", "requests", "google.protobuf") if name in sys.modules])
""")
    assert said == "[]"
