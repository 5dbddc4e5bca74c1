from __future__ import annotations

from pathlib import Path

import pytest

from llamatelemetry.cli.pipeline_view import telemetry_line
from llamatelemetry.config import Settings


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (Settings(traces_exporters=("otlp",)), "Telemetry was sent to http://localhost:4318"),
        (
            Settings(traces_exporters=("otlp",), otlp_endpoint="https://ada:hunter2@there"),
            "Telemetry was sent to https://there",
        ),
        (Settings(telemetry_dir=Path("/telemetry")), "Telemetry is in /telemetry"),
        (Settings(traces_exporters=("none",)), ""),
    ],
)
def test_where_telemetry_went_is_named_and_its_password_is_not(settings: Settings, line: str) -> None:
    assert telemetry_line(settings) == line
